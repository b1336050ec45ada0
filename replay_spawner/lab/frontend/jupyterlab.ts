/**
 * The little of JupyterLab that is used here, as JupyterLab 4 and Notebook 7 document it. Their packages are not bundled and
 * not needed to build this: at run time they come out of the application's share scope (see `shared.ts`).
 */

/** `@jupyterlab/services`. */
export interface Services {
  readonly ServerConnection: {
    /** Adds the base address' credentials and the XSRF token. */
    makeRequest(url: string, init: RequestInit, settings: ServerSettings): Promise<Response>;
  };
}

export interface ServerSettings {
  /** Ends with a slash. */
  readonly baseUrl: string;
}

/** `@jupyterlab/apputils`; `Notification` is there since JupyterLab 4. */
export interface AppUtils {
  readonly Notification?: Notifications;
  readonly ICommandPalette?: unknown;
}

export interface Notifications {
  /** `autoClose` is in milliseconds, or false: open until somebody closes it. Returns the notification's id. */
  warning(message: string, options: { autoClose: number | false; actions?: readonly Action[] }): string;
  success(message: string, options: { autoClose: number | false }): string;
  error(message: string, options: { autoClose: number | false; actions?: readonly Action[] }): string;
  dismiss(id: string): void;
}

export interface Action {
  readonly label: string;
  readonly displayType?: "accent" | "default" | "link";
  /** The notification closes afterwards, unless the event's default is prevented. */
  callback(event: MouseEvent): void;
}

/** `@jupyterlab/mainmenu`. */
export interface MainMenuModule {
  readonly IMainMenu?: unknown;
}

/** `@jupyterlab/coreutils`. */
export interface CoreUtils {
  readonly PageConfig?: { getOption(name: string): string };
}

export interface Application {
  readonly commands: {
    addCommand(id: string, options: { label: string; caption: string; execute: () => void }): unknown;
  };
  readonly serviceManager: { readonly serverSettings: ServerSettings };
  /** Resolves when the page is drawn. */
  readonly restored: Promise<unknown>;
}

export interface CommandPalette {
  addItem(item: { command: string; category: string }): unknown;
}

export interface MainMenu {
  readonly fileMenu: { addGroup(items: readonly { command: string }[], rank: number): unknown };
}

export interface Plugin {
  readonly id: string;
  readonly description: string;
  readonly autoStart: boolean;
  readonly optional: readonly unknown[];
  activate(application: Application, ...found: readonly unknown[]): void;
}
