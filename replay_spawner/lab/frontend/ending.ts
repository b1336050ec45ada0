/** The warning that the session is about to end: shown while that is less than ten minutes away. */
import type { Action, Notifications } from "./jupyterlab";
import type { Server, Session } from "./server";
import { complain } from "./shared";

const EVERY_MS = 60_000;
const WARN_MS = 600_000;
/** What somebody did counts when the idle culler next looks: until then, an end that was known before is not shown again. */
const BELIEVED_MS = 300_000;
const SOON_MS = 1_000;

function duration(seconds: number): string {
  const minutes = Math.round(seconds / 60);
  if (minutes < 1) {
    return `${Math.round(seconds)} seconds`;
  }
  if (minutes % 60) {
    return minutes === 1 ? "a minute" : `${minutes} minutes`;
  }
  return minutes === 60 ? "an hour" : `${minutes / 60} hours`;
}

/** “This session ends at 15:04, an hour after it was last used.” The time is the browser's own, wherever the server is. */
function sentence(endsAt: number, limit: number | null): string {
  const time = new Date(endsAt).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  const why = limit === null ? "because it is not used" : `${duration(limit)} after it was last used`;
  return `This session ends at ${time}, ${why}.`;
}

export class Ending {
  /** What was read last. */
  session: Session = { endsAt: null, service: null, launch: null, limit: null };
  private shown: { readonly id: string; readonly endsAt: number } | null = null;
  /** An end that the person has answered by doing something, and until when that is believed. */
  private answered: { readonly endsAt: number; readonly until: number } | null = null;
  private lookedAt = -Infinity;

  constructor(
    private readonly server: Server,
    private readonly notifications: Notifications | undefined,
    private readonly stay: () => Promise<void>,
    private readonly workUrl: (session: Session) => string | null,
  ) {}

  /** Returns once it was looked for the first time, found or not. */
  async watch(): Promise<void> {
    const look = (): void => {
      if (document.visibilityState === "visible" && performance.now() - this.lookedAt > SOON_MS) {
        void this.look();
      }
    };
    window.setInterval(look, EVERY_MS);
    window.addEventListener("focus", look);
    document.addEventListener("visibilitychange", look);
    await this.look();
  }

  /** Somebody did something, and the server knows it: the warning goes when it is next looked. Not now, under a click on its button. */
  answer(): void {
    if (this.session.endsAt !== null) {
      this.answered = { endsAt: this.session.endsAt, until: performance.now() + BELIEVED_MS };
    }
  }

  private async look(): Promise<void> {
    this.lookedAt = performance.now();
    try {
      this.session = await this.server.session();
      this.show();
    } catch (error) {
      complain("it is not known when this session ends", error);
    }
  }

  private show(): void {
    const { endsAt, limit } = this.session;
    const left = endsAt === null ? Infinity : endsAt - this.server.now();
    if (endsAt === null || left > WARN_MS || left <= 0 || this.isAnswered(endsAt)) {
      this.hide();
    } else if (this.shown?.endsAt !== endsAt) {
      this.hide();
      const here = endsAt - this.server.now() + Date.now();
      const id = this.notifications?.warning(sentence(here, limit), { autoClose: false, actions: this.actions() });
      this.shown = id === undefined ? null : { id, endsAt };
    }
  }

  private isAnswered(endsAt: number): boolean {
    return this.answered?.endsAt === endsAt && performance.now() < this.answered.until;
  }

  private actions(): Action[] {
    const work = this.workUrl(this.session);
    const stay: Action = {
      label: "Stay",
      displayType: "accent",
      callback: () => {
        void this.staying();
      },
    };
    const download: Action = {
      label: "Download my work",
      callback: (event) => {
        event.preventDefault(); // the warning stays open
        window.open(work ?? "", "_blank", "noopener");
      },
    };
    return work === null ? [stay] : [stay, download];
  }

  private async staying(): Promise<void> {
    try {
      await this.stay();
      this.hide();
      this.notifications?.success("The session stays.", { autoClose: 5_000 });
    } catch (error) {
      complain("“Stay” did not reach the session's server", error);
      this.notifications?.error(
        "“Stay” did not reach the session's server. Try it on Replay's home, and download your work.",
        { autoClose: false },
      );
    }
  }

  private hide(): void {
    if (this.shown) {
      this.notifications?.dismiss(this.shown.id);
      this.shown = null;
    }
  }
}
