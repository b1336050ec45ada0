/** Addresses on the hub's host, which is another one than the session's where each user has a domain of their own. */
import type { CoreUtils } from "./jupyterlab";
import type { Session } from "./server";

export class Addresses {
  constructor(private readonly coreUtils: CoreUtils | undefined) {}

  /** Replay's home; the hub's own until the service is known. */
  home({ service }: Session): string {
    return this.onHub(service ?? `${this.option("hubPrefix") || "/hub/"}home`);
  }

  /** Where what the person made comes down as an archive. */
  work({ service, launch }: Session): string | null {
    return service && launch ? this.onHub(`${service}launches/${launch}/work`) : null;
  }

  private onHub(path: string): string {
    return new URL(path, this.option("hubHost") || window.location.origin).href;
  }

  private option(name: string): string {
    return this.coreUtils?.PageConfig?.getOption(name) ?? "";
  }
}
