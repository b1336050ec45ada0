/** The wire: what one message of a launch's stream says. Nothing of it is trusted before it is checked here. */

export const PHASES = ["waiting", "fetching", "building", "pushing", "built", "launching", "ready", "failed"] as const;

export type Phase = (typeof PHASES)[number];

export interface Frame {
  readonly phase: Phase;
  readonly kind: "phase" | "line";
  readonly message: string;
  /** Where the session is; with the phase `ready` only. */
  readonly url?: string;
  /** When it happened, in seconds since 1970 by the service's clock. */
  readonly at?: number;
}

/** The part of a stream that a frame belongs to: before the build, the build's, or after it. */
export type Part = "before" | "build" | "after";

/** The frame in a message's data, or nothing where it is none. */
export function parseFrame(data: string): Frame | undefined {
  let value: unknown;
  try {
    value = JSON.parse(data);
  } catch {
    return undefined;
  }
  return isFrame(value) ? value : undefined;
}

/** The service marks its ids: `w…` before the build, `b…` the build's, `l…` the launch's own from then on. */
export function partOf(id: string): Part {
  return id.startsWith("b") ? "build" : id.startsWith("l") ? "after" : "before";
}

/** A path on this very host, or nothing: what a message says must never lead elsewhere. */
export function ownPath(url: string | undefined): string | undefined {
  return url !== undefined && /^\/(?![/\\])/.test(url) ? url : undefined;
}

function isFrame(value: unknown): value is Frame {
  if (typeof value !== "object" || value === null) {
    return false;
  }
  const { phase, kind, message, url, at } = value as Record<keyof Frame, unknown>;
  return (
    (PHASES as readonly unknown[]).includes(phase) &&
    (kind === "phase" || kind === "line") &&
    typeof message === "string" &&
    (url === undefined || typeof url === "string") &&
    (at === undefined || typeof at === "number")
  );
}
