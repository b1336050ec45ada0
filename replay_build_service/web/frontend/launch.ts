/** The launch page: turns the stream of events into phases, a log, and the way to the session. */
import { type Frame, type Part, ownPath } from "./frames";
import { Log } from "./log";
import { duration, PhaseList } from "./phases";
import { Stream } from "./stream";

const LOST = "Connection lost, trying again. The launch itself goes on.";
const GONE = "The connection could not be restored. Reload this page to see where your launch is.";

class LaunchPage {
  private readonly state: string;
  private readonly isLive: boolean;
  private readonly created: number;
  private readonly repository: string;
  private readonly phases: PhaseList;
  private readonly stream: Stream;
  private readonly log: Log | undefined;
  private timer: number | undefined;
  /** How far this computer's clock lags behind the service's, in seconds, as far as is known. */
  private lag = 0;
  private isFollowing = false;
  private lastRemark = "";

  constructor(private readonly root: HTMLElement) {
    const data = root.dataset;
    this.state = data["state"] ?? "";
    this.isLive = this.state === "building" || this.state === "starting";
    this.created = Number(data["created"]);
    this.repository = data["repository"] ?? "";
    this.phases = new PhaseList(this.find("[data-phases]"));
    this.stream = new Stream(data["events"] ?? "", data["xsrf"] ?? "", this.isLive, {
      frame: (frame, part) => {
        this.take(frame, part);
      },
      connection: (state) => {
        this.say("[data-connection]", state === "open" ? "" : state === "lost" ? LOST : GONE);
      },
    });
    this.log = this.prepareLog();
    if (this.isLive) {
      this.follow();
      this.timer = window.setInterval(() => {
        this.tick();
      }, 1000);
      this.tick();
    }
  }

  private prepareLog(): Log | undefined {
    const box = this.find("[data-log]");
    const toggle = this.find("[data-log-toggle]");
    const copy = this.find("[data-log-copy]");
    const section = this.find("[data-log-section]");
    if (!box || !toggle || !copy || !section) {
      return undefined;
    }
    section.hidden = false;
    return new Log(box, toggle, copy, () => {
      this.follow();
    });
  }

  /** A launch on its way is followed at once; the log of one that is over is fetched when somebody opens it. */
  private follow(): void {
    if (!this.isFollowing) {
      this.isFollowing = true;
      this.stream.open();
    }
  }

  private take(frame: Frame, part: Part): void {
    if (frame.at !== undefined) {
      this.lag = Math.max(this.lag, frame.at - Date.now() / 1000);
    }
    if (frame.kind === "line") {
      this.log?.line(frame.message);
      return;
    }
    if (part === "build" && (frame.phase === "launching" || frame.phase === "ready")) {
      // A build is a stranger's program: where the session is, the launch alone says.
      return;
    }
    if (frame.message !== "" && frame.message !== this.lastRemark) {
      // A build's last word is often its launch's as well.
      this.log?.remark(frame.message);
      this.lastRemark = frame.message;
    }
    if (frame.phase === "failed") {
      this.fail(frame, part);
      return;
    }
    if (!this.isLive) {
      if (frame.phase === "ready") {
        this.stream.close();
      }
      return;
    }
    this.phases.enter(frame.phase, frame.at);
    this.say("[data-status]", frame.message);
    if (frame.phase === "launching" || frame.phase === "ready") {
      // The hub cannot stop a server that is only just starting.
      this.hide("[data-give-up]");
    }
    if (frame.phase === "launching") {
      this.hide("[data-while-building]");
      this.head("Starting your session");
    } else if (frame.phase === "ready") {
      this.becomeReady(frame);
    }
    this.tick();
  }

  private becomeReady(frame: Frame): void {
    this.stop();
    this.head("Your session is ready");
    const path = ownPath(frame.url);
    const link = this.find<HTMLAnchorElement>("[data-open] a");
    if (path === undefined || link === null) {
      this.say("[data-status]", "Your server is ready. Open it from Replay’s home.");
      return;
    }
    link.href = path;
    this.reveal("[data-open]");
    location.assign(path);
  }

  /** A build that failed is followed by its launch's own last word; only that one ends the stream. */
  private fail(frame: Frame, part: Part): void {
    if (part !== "build") {
      this.stop();
    }
    if (!this.isLive) {
      return;
    }
    this.phases.fail(frame.at);
    this.hide("[data-give-up]");
    this.hide("[data-status]");
    this.log?.show(true);
    this.say("[data-failure]", frame.message);
    this.head("This launch has stopped");
    this.reveal("[data-again]");
    this.tick();
  }

  private stop(): void {
    this.stream.close();
    window.clearInterval(this.timer);
    this.say("[data-connection]", "");
    this.hide("[data-times]");
  }

  private tick(): void {
    const now = Date.now() / 1000 + this.lag;
    this.phases.tick(now);
    const elapsed = this.find("[data-elapsed]");
    if (elapsed !== null && Number.isFinite(this.created)) {
      elapsed.textContent = `${duration(now - this.created)} so far.`;
    }
  }

  private head(text: string): void {
    const heading = this.find("[data-heading]");
    if (heading !== null) {
      heading.textContent = text;
    }
    document.title = `${text}: ${this.repository} · Replay`;
  }

  private say(selector: string, text: string): void {
    const place = this.find(selector);
    if (place !== null && place.textContent !== text) {
      place.textContent = text;
      place.hidden = text === "";
    }
  }

  private hide(selector: string): void {
    for (const element of this.root.querySelectorAll<HTMLElement>(selector)) {
      element.hidden = true;
    }
  }

  private reveal(selector: string): void {
    const element = this.find(selector);
    if (element !== null) {
      element.hidden = false;
    }
  }

  private find<T extends HTMLElement = HTMLElement>(selector: string): T | null {
    return this.root.querySelector<T>(selector);
  }
}

const root = document.querySelector<HTMLElement>("[data-launch]");
if (root !== null) {
  new LaunchPage(root);
}
