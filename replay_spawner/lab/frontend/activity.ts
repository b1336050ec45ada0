/** What the person does in the page, told to the session's server once a minute at most. What the page does itself is not told. */
import type { Server } from "./server";
import { complain } from "./shared";

const EVERY_MS = 60_000;
const JUST_NOW_MS = 5_000;
const ACTIONS = ["keydown", "pointerdown", "wheel"] as const;

export class Activity {
  /** When it was last tried to tell, by the browser's clock that nobody sets: `performance.now()`. */
  private tried = -Infinity;
  /** What the person last did that is not told yet, by the same clock. */
  private untold: number | null = null;
  /** When the server was last told and answered so, by the same clock. */
  private known = -Infinity;
  private timer: number | undefined;
  private telling: Promise<void> | null = null;

  constructor(
    private readonly server: Server,
    private readonly onTold: () => void,
  ) {}

  /** Opening the page is an action of the person's, too. */
  watch(): void {
    for (const action of ACTIONS) {
      window.addEventListener(
        action,
        (event) => {
          if (event.isTrusted) {
            this.acted();
          }
        },
        { capture: true, passive: true },
      );
    }
    this.acted();
  }

  /** Tell at once that the person wants the session. Rejects where the server could not be told. */
  async stay(): Promise<void> {
    await this.telling?.catch(() => undefined);
    if (performance.now() - this.known > JUST_NOW_MS) {
      await this.tell(performance.now());
    } // or else the click on the button was told already
  }

  private acted(): void {
    this.untold = performance.now();
    const wait = this.tried + EVERY_MS - this.untold;
    if (wait <= 0) {
      this.tellQuietly();
    } else {
      this.timer ??= window.setTimeout(() => this.tellQuietly(), wait);
    }
  }

  private tellQuietly(): void {
    if (this.untold !== null && !this.telling) {
      this.tell(this.untold).catch((error: unknown) => complain("the session's server was not told that you use it", error));
    }
  }

  private tell(acted: number): Promise<void> {
    window.clearTimeout(this.timer);
    this.timer = undefined;
    this.tried = performance.now();
    this.untold = null;
    this.telling = this.server
      .personActed(this.server.now() - (this.tried - acted))
      .then(() => {
        this.known = performance.now();
        this.onTold();
      })
      .finally(() => {
        this.telling = null;
      });
    return this.telling;
  }
}
