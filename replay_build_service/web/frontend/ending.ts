/**
 * The warning before a session ends that nobody uses, while the page stays open; and the notification that the person permitted.
 * Without this script the page says what was known when it was opened.
 */
const EVERY_MS = 60_000;

interface SessionEnd {
  readonly launch: string | null;
  readonly endsAt: string | null;
  readonly sentence: string;
}

function sessionEnd(told: unknown): SessionEnd {
  const found = (typeof told === "object" && told !== null ? told : {}) as Record<string, unknown>;
  const text = (name: string): string | null => (typeof found[name] === "string" ? found[name] : null);
  return { launch: text("launch"), endsAt: text("ends_at"), sentence: text("sentence") ?? "" };
}

class Warning {
  private readonly warning: HTMLElement | null;
  private readonly sentence: HTMLElement | null;
  private readonly ask: HTMLElement | null;
  /** The end that a notification told of. */
  private told: string | null = null;

  constructor(private readonly place: HTMLElement) {
    this.warning = place.querySelector("[data-ending-warning]");
    this.sentence = place.querySelector("[data-ending-sentence]");
    this.ask = place.querySelector("[data-ending-ask]");
  }

  start(): void {
    this.offer();
    window.setInterval(() => void this.look(), EVERY_MS);
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState === "visible") {
        void this.look();
      }
    });
    void this.look();
  }

  private offer(): void {
    const button = this.ask?.querySelector("button");
    if (!this.ask || !button || !("Notification" in window) || Notification.permission !== "default") {
      return;
    }
    const ask = this.ask;
    ask.hidden = false;
    button.addEventListener("click", () => {
      void Notification.requestPermission().then((permission) => {
        ask.hidden = permission !== "default";
      });
    });
  }

  private async look(): Promise<void> {
    const url = new URL(this.place.dataset["ending"] ?? "", window.location.href);
    url.searchParams.set("_xsrf", this.place.dataset["xsrf"] ?? "");
    try {
      const response = await fetch(url, { headers: { Accept: "application/json" } });
      if (response.ok) {
        this.show(sessionEnd(await response.json()));
      }
    } catch {
      // The next look may find the service again; until then the page says what it knows.
    }
  }

  private show(end: SessionEnd): void {
    if (!this.warning || !this.sentence) {
      return;
    }
    const isNear = end.launch === this.place.dataset["launch"] && end.endsAt !== null;
    if (isNear && this.sentence.textContent !== end.sentence) {
      this.sentence.textContent = end.sentence;
    }
    this.warning.hidden = !isNear;
    if (isNear && this.told !== end.endsAt) {
      this.told = end.endsAt;
      this.notify(end);
    }
  }

  private notify(end: SessionEnd): void {
    if (!("Notification" in window) || Notification.permission !== "granted") {
      return;
    }
    try {
      const notification = new Notification("Your session ends soon", { body: end.sentence, tag: `replay-${end.launch}` });
      notification.addEventListener("click", () => window.focus());
    } catch {
      // Some browsers of phones show notifications of service workers only: there the page itself has to do.
    }
  }
}

for (const place of document.querySelectorAll<HTMLElement>("[data-ending]")) {
  new Warning(place).start();
}
