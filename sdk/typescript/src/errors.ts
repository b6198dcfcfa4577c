// Why an event was not kept.

/**
 * - `unconfigured`: there is no URL or no API key.
 * - `invalid`: it cannot be written as JSON, or its options make no sense. It was not sent.
 * - `rejected`: the gateway says what is wrong with it, in `errors`.
 * - `refused`: the gateway, or what stands before it, refuses every event of this client, such as for
 *   a wrong key or URL.
 * - `queue-full`: more waits than `queueEvents` or `queueBytes`.
 * - `expired`: `retryFor` was over. Whether it was kept is not known; `cause` is the last failure.
 * - `aborted`: the caller's signal. If it had been sent, whether it was kept is not known.
 * - `closed`: the client was closed before the event was answered.
 */
export type ErrorCode =
  | "unconfigured"
  | "invalid"
  | "rejected"
  | "refused"
  | "queue-full"
  | "expired"
  | "aborted"
  | "closed";

/** What is wrong with one field of an event, as the gateway says it. */
export interface FieldError {
  field: string;
  rule: string;
  found: string;
}

interface Details {
  status?: number | undefined;
  errors?: readonly FieldError[] | undefined;
  cause?: unknown;
}

/** An event was not kept, or nobody knows whether it was. `code` says which. */
export class TidegateError extends Error {
  override readonly name = "TidegateError";
  readonly code: ErrorCode;
  /** The status of the gateway's answer, if there was one. */
  readonly status: number | undefined;
  /** What is wrong with the event, field by field. */
  readonly errors: readonly FieldError[];

  constructor(code: ErrorCode, message: string, details: Details = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = code;
    this.status = details.status;
    this.errors = details.errors ?? [];
  }
}
