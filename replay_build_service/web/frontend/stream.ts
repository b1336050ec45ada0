/** Following a launch's stream of events for as long as it takes, through lost connections. */
import { type Frame, type Part, parseFrame, partOf } from "./frames";

/** How long a stream that the service refuses is asked for again before the person is told, in milliseconds. */
const PATIENCE = 5 * 60_000;
const LONGEST_WAIT = 30_000;
/**
 * A stream says every ten seconds that it is alive. One that has said nothing for longer is dead, though a proxy may hold
 * its connection open, in which case the browser never notices.
 */
const SILENCE = 25_000;

export interface Listener {
  frame(frame: Frame, part: Part): void;
  /** `lost`: it is being tried again; `gone`: it is not. */
  connection(state: "open" | "lost" | "gone"): void;
}

export class Stream {
  private source: EventSource | undefined;
  private timer: number | undefined;
  private silence: number | undefined;
  private lastId = "";
  private refusedSince: number | undefined;
  private wait = 1000;

  /**
   * `isLive` is false for a launch that has ended: its stream is read once, and the end of it is no fault.
   * `xsrf` goes into the address, since the hub takes a cookie from a script for nobody's without it.
   */
  constructor(
    private readonly address: string,
    private readonly xsrf: string,
    private readonly isLive: boolean,
    private readonly listener: Listener,
  ) {}

  open(): void {
    const url = new URL(this.address, location.href);
    url.searchParams.set("_xsrf", this.xsrf);
    if (this.lastId !== "") {
      // A new EventSource knows nothing of the last one's position.
      url.searchParams.set("after", this.lastId);
    }
    const source = new EventSource(url);
    this.source = source;
    source.onopen = () => {
      this.refusedSince = undefined;
      this.wait = 1000;
      this.listener.connection("open");
      this.heard(source);
    };
    source.addEventListener("alive", () => {
      this.heard(source);
    });
    source.onmessage = (event: MessageEvent<unknown>) => {
      this.lastId = event.lastEventId;
      this.heard(source);
      const frame = typeof event.data === "string" ? parseFrame(event.data) : undefined;
      if (frame !== undefined) {
        this.listener.frame(frame, partOf(event.lastEventId));
      }
    };
    source.onerror = () => {
      this.broken(source);
    };
  }

  close(): void {
    this.source?.close();
    this.source = undefined;
    window.clearTimeout(this.timer);
    window.clearTimeout(this.silence);
  }

  private heard(source: EventSource): void {
    window.clearTimeout(this.silence);
    if (source !== this.source || !this.isLive) {
      return;
    }
    this.silence = window.setTimeout(() => {
      this.close();
      this.listener.connection("lost");
      this.open();
    }, SILENCE);
  }

  private broken(source: EventSource): void {
    if (source !== this.source) {
      return;
    }
    if (!this.isLive && this.lastId !== "") {
      this.close();
      return;
    }
    if (source.readyState === EventSource.CONNECTING) {
      // The browser tries again by itself, and says which event it saw last.
      this.listener.connection("lost");
      return;
    }
    // An HTTP error: the browser gives up, we do not yet.
    this.close();
    this.refusedSince ??= Date.now();
    if (Date.now() - this.refusedSince > PATIENCE) {
      this.listener.connection("gone");
      return;
    }
    this.listener.connection("lost");
    this.timer = window.setTimeout(() => {
      this.open();
    }, this.wait);
    this.wait = Math.min(this.wait * 2, LONGEST_WAIT);
  }
}
