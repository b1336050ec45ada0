/** Modules that JupyterLab shares with its extensions: webpack's share scope, read by hand. */

/** One version of one module. `get` answers with what makes it; the application has usually made it already. */
interface SharedVersion {
  readonly get: () => Promise<() => unknown> | (() => unknown);
  readonly loaded?: unknown;
}

export type ShareScope = Readonly<Record<string, Readonly<Record<string, SharedVersion>>>>;

/** JupyterLab's own modules are singletons: the one that is in use already is the one to take, or else the newest. */
function chosen(versions: Readonly<Record<string, SharedVersion>>): SharedVersion | undefined {
  const newestFirst = Object.entries(versions).sort(([one], [other]) =>
    other.localeCompare(one, "en", { numeric: true }),
  );
  const found = newestFirst.find(([, version]) => version.loaded) ?? newestFirst[0];
  return found?.[1];
}

/** The module, or nothing where the application has none of that name or cannot load it. */
export async function sharedModule<T>(scope: ShareScope, name: string): Promise<T | undefined> {
  try {
    const version = chosen(scope[name] ?? {});
    return version && ((await version.get())() as T);
  } catch (error) {
    complain(`JupyterLab's ${name} could not be loaded`, error);
    return undefined;
  }
}

const complaints = new Set<string>();

/** On the console, once for each kind of failure: nothing of this extension may be in the way of anybody's work. */
export function complain(what: string, error: unknown): void {
  if (!complaints.has(what)) {
    complaints.add(what);
    console.warn(`Replay: ${what}.`, error);
  }
}
