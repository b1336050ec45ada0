/** The list of phases: which are over, which one is now, and how long each took. */
import type { Phase } from "./frames";

const STEPS = ["waiting", "fetching", "building", "built", "launching", "ready"] as const;

type Step = (typeof STEPS)[number];
type State = "pending" | "current" | "done" | "skipped" | "failed";

const WORDS: Record<State, string> = { pending: "", current: "now", done: "done", skipped: "not needed", failed: "failed" };

/** Pushing an image is part of building it, to a person who waits. */
function stepOf(phase: Phase): Step | undefined {
  return phase === "failed" ? undefined : phase === "pushing" ? "building" : phase;
}

/** Seconds in words: `8 s`, `2 min 5 s`, `1 h 12 min`. */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  const minutes = Math.floor(whole / 60);
  if (minutes === 0) {
    return `${whole} s`;
  }
  return minutes < 60 ? `${minutes} min ${whole % 60} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export class PhaseList {
  private readonly items = new Map<Step, HTMLElement>();
  /** When each step that was seen began, by the service's clock; nothing where it did not say. */
  private readonly began = new Map<Step, number | undefined>();
  private current: Step | undefined;
  private endedAt: number | undefined;

  constructor(list: HTMLElement | null) {
    for (const step of STEPS) {
      const item = list?.querySelector<HTMLElement>(`[data-phase="${step}"]`);
      if (item) {
        this.items.set(step, item);
      }
    }
  }

  /** A phase began. One that lies behind already changes nothing. */
  enter(phase: Phase, at: number | undefined): void {
    const step = stepOf(phase);
    if (step === undefined || (this.current !== undefined && STEPS.indexOf(step) < STEPS.indexOf(this.current))) {
      return;
    }
    if (!this.began.has(step)) {
      this.began.set(step, at);
    }
    this.current = step;
    this.show();
  }

  /** The phase that is under way did not work out. */
  fail(at: number | undefined): void {
    if (this.current !== undefined && this.endedAt === undefined) {
      this.endedAt = at;
      this.mark(this.current, "failed");
    }
  }

  /** `now` by the service's clock, in seconds. */
  tick(now: number): void {
    const seen = STEPS.filter((step) => this.began.has(step));
    seen.forEach((step, index) => {
      const next = seen[index + 1];
      const end = next === undefined ? (this.endedAt ?? now) : this.began.get(next);
      const start = this.began.get(step);
      const lasts = step !== "built" && step !== "ready";
      this.text(step, "[data-time]", lasts && start !== undefined && end !== undefined ? duration(end - start) : "");
    });
  }

  private show(): void {
    const here = this.current === undefined ? -1 : STEPS.indexOf(this.current);
    STEPS.forEach((step, index) => {
      if (index > here) {
        return;
      }
      if (index === here) {
        this.mark(step, step === "ready" ? "done" : "current");
      } else {
        this.mark(step, this.began.has(step) || step === "built" || step === "waiting" ? "done" : "skipped");
      }
    });
  }

  private mark(step: Step, state: State): void {
    const item = this.items.get(step);
    if (item === undefined || item.dataset["state"] === state) {
      return;
    }
    item.dataset["state"] = state;
    if (state === "current") {
      item.setAttribute("aria-current", "step");
    } else {
      item.removeAttribute("aria-current");
    }
    this.text(step, "[data-words]", WORDS[state]);
  }

  private text(step: Step, selector: string, text: string): void {
    const place = this.items.get(step)?.querySelector(selector);
    if (place && place.textContent !== text) {
      place.textContent = text;
    }
  }
}
