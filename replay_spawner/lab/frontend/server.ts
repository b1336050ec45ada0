/** What is exchanged with the session's server: two sections of its configuration, read and written by its own API. */
import type { ServerSettings, Services } from "./jupyterlab";

const TIMEOUT_MS = 15_000;

/** Written by this extension: when a person did something, and that it is here. Read by the hub's idle culler. */
const ACTIVITY = "replay_activity";
/** Written by the idle culler: when the session ends, and what of. */
const SESSION = "replay_session";

/** As the idle culler wrote it. Anybody may have: it is checked, and nothing in it is more than a name or a time. */
export interface Session {
  /** By the server's clock, milliseconds since the epoch. */
  readonly endsAt: number | null;
  /** The service's path on the hub's host. */
  readonly service: string | null;
  readonly launch: string | null;
  /** How long a session may be unused, in seconds. */
  readonly limit: number | null;
}

function session(section: unknown): Session {
  const found = (typeof section === "object" && section !== null ? section : {}) as Record<string, unknown>;
  const text = (name: string, pattern: RegExp): string | null => {
    const value = found[name];
    return typeof value === "string" && pattern.test(value) ? value : null;
  };
  const endsAt = Date.parse(text("ends_at", /^\d{4}-\d\d-\d\dT[\d:.]+(?:Z|[+-]\d\d:\d\d)$/) ?? "");
  const limit = found["limit"];
  return {
    endsAt: Number.isNaN(endsAt) ? null : endsAt,
    service: text("service", /^\/(?:[\w.~@%-]+\/)*$/),
    launch: text("launch", /^[\w-]{1,100}$/),
    limit: typeof limit === "number" && limit > 0 ? limit : null,
  };
}

export class Server {
  /** By how much its clock is ahead of the browser's, in milliseconds. */
  private ahead = 0;

  constructor(
    private readonly connection: Services["ServerConnection"],
    private readonly settings: ServerSettings,
  ) {}

  /** The server's time, milliseconds since the epoch. */
  now(): number {
    return Date.now() + this.ahead;
  }

  async session(): Promise<Session> {
    return session(await (await this.ask(SESSION, { method: "GET" })).json());
  }

  /** Say that a person did something: `at` milliseconds since the epoch, by the server's clock. */
  async personActed(at: number): Promise<void> {
    const told = { person_at: new Date(at).toISOString(), lab: true };
    await this.ask(ACTIVITY, { method: "PATCH", body: JSON.stringify(told) });
  }

  private async ask(section: string, init: RequestInit): Promise<Response> {
    const asked = Date.now();
    const response = await this.connection.makeRequest(
      `${this.settings.baseUrl}api/config/${section}?no_track_activity=1`, // the server's own count is not moved by it
      { ...init, signal: AbortSignal.timeout(TIMEOUT_MS) },
      this.settings,
    );
    const date = Date.parse(response.headers.get("Date") ?? "");
    if (!Number.isNaN(date)) {
      // The header counts whole seconds: on average it is half of one behind.
      this.ahead = date + 500 - (asked + Date.now()) / 2;
    }
    if (!response.ok) {
      throw new Error(`The session's server answered ${response.status} about ${section}`);
    }
    return response;
  }
}
