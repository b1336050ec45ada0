/**
 * A container of webpack's module federation, written by hand, as JupyterLab expects a prebuilt extension: a script that puts it
 * into `window._JUPYTERLAB` under the extension's name. JupyterLab calls `init` with the modules that it shares, then `get`.
 */
import type { Plugin } from "./jupyterlab";
import { sessionPlugin } from "./plugin";
import type { ShareScope } from "./shared";

interface Container {
  init(scope: ShareScope): void;
  get(module: string): Promise<() => { readonly __esModule: true; readonly default: Plugin }>;
}

declare global {
  interface Window {
    _JUPYTERLAB?: Record<string, Container>;
  }
}

let shared: ShareScope = {};

(window._JUPYTERLAB ??= {})["replay-session"] = {
  init(scope) {
    shared = scope;
  },
  async get(module) {
    if (module !== "./extension") {
      throw new Error(`Replay's extension has no ${module}.`);
    }
    const plugin = await sessionPlugin(shared);
    return () => ({ __esModule: true, default: plugin });
  },
};
