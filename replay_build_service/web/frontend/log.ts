/** The log of a launch in a terminal that can only be read. */
import { FitAddon } from "@xterm/addon-fit";
import { Terminal } from "@xterm/xterm";

const LINES_KEPT = 5000;

/** Each key that scrolls, and how. All others are the page's, Tab above all: the log must not hold the keyboard. */
const SCROLLS: Record<string, (terminal: Terminal) => void> = {
  ArrowUp: (terminal) => terminal.scrollLines(-1),
  ArrowDown: (terminal) => terminal.scrollLines(1),
  PageUp: (terminal) => terminal.scrollPages(-1),
  PageDown: (terminal) => terminal.scrollPages(1),
  Home: (terminal) => terminal.scrollToTop(),
  End: (terminal) => terminal.scrollToBottom(),
};

export class Log {
  private readonly fit = new FitAddon();
  private readonly terminal = new Terminal({
    convertEol: true,
    disableStdin: true,
    scrollback: LINES_KEPT,
    screenReaderMode: true,
    minimumContrastRatio: 4.5,
    cursorInactiveStyle: "none",
    cursorBlink: false,
    fontFamily: 'ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace',
    fontSize: 13,
    theme: { background: "#14181e", foreground: "#e3e7ed", cursor: "#14181e" },
  });
  private isDrawn = false;

  constructor(
    private readonly box: HTMLElement,
    private readonly toggle: HTMLElement,
    private readonly copyButton: HTMLElement,
    private readonly onOpen: () => void,
  ) {
    this.terminal.loadAddon(this.fit);
    this.terminal.attachCustomKeyEventHandler((event) => {
      const scroll = event.ctrlKey || event.metaKey || event.altKey ? undefined : SCROLLS[event.key];
      if (scroll !== undefined && event.type === "keydown") {
        scroll(this.terminal);
        event.preventDefault();
      }
      return false;
    });
    toggle.addEventListener("click", () => {
      this.show(!this.isOpen);
    });
    copyButton.addEventListener("click", () => {
      void this.copy();
    });
    new ResizeObserver(() => {
      this.layOut();
    }).observe(box);
    this.show(this.isOpen);
  }

  private get isOpen(): boolean {
    return !this.box.hasAttribute("hidden");
  }

  show(isOpen: boolean): void {
    this.box.hidden = !isOpen;
    this.copyButton.hidden = !isOpen;
    this.toggle.setAttribute("aria-expanded", String(isOpen));
    this.toggle.textContent = isOpen ? "Hide the log" : "Show the log";
    if (isOpen) {
      this.layOut();
      this.onOpen();
    }
  }

  line(text: string): void {
    this.terminal.write(`${text}\x1b[0m\n`);
  }

  /** A sentence of Replay's own between the lines of the programs. */
  remark(text: string): void {
    this.line(`\x1b[1;38;5;215m${text}`);
  }

  private layOut(): void {
    if (!this.isOpen) {
      return;
    }
    if (!this.isDrawn) {
      this.isDrawn = true;
      this.terminal.open(this.box);
      // Every line of a build, read aloud at once, would drown what matters; the status line says that.
      this.box.querySelector(".live-region")?.setAttribute("aria-live", "off");
      this.terminal.textarea?.setAttribute("aria-label", "Log of this launch. Arrow keys scroll.");
    }
    this.fit.fit();
  }

  private async copy(): Promise<void> {
    this.terminal.selectAll();
    const text = this.terminal.getSelection();
    this.terminal.clearSelection();
    try {
      await navigator.clipboard.writeText(text);
      this.copyButton.textContent = "Copied";
    } catch {
      this.terminal.selectAll();
      this.copyButton.textContent = "Selected: copy it now";
    }
    window.setTimeout(() => {
      this.copyButton.textContent = "Copy the log";
    }, 3000);
  }
}
