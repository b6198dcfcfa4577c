// Tidegate's SDK: `ingest` sends events, `verify` believes deliveries.
import { Tidegate, type EventType, type IngestOptions, type Options, type Payload } from "./client.js";
import type { Receipt } from "./queue.js";

/**
 * The events of your project: their types, and the payload of each. `tidegate codegen typescript` writes
 * a file that fills it in; while it is empty, any type and any payload compile.
 */
export interface EventMap {}

export { Tidegate } from "./client.js";
export type { DroppedEvent, EventType, IngestOptions, Options, Payload } from "./client.js";
export type { Receipt } from "./queue.js";
export { TidegateError } from "./errors.js";
export type { ErrorCode, FieldError } from "./errors.js";
export { verify, VerifyError } from "./verify.js";
export type { Delivery, HeadersLike, Scheme, VerifyCode, VerifyOptions } from "./verify.js";

/** One for the process, also where the package is loaded twice, as ESM and as CommonJS. */
const shared = globalThis as { [key: symbol]: Tidegate | undefined };
const KEY = Symbol.for("@tidegate/sdk/0");

/** The client behind `ingest`, from now on. What the former one holds, it still sends. */
export function configure(options: Options): Tidegate {
  void shared[KEY]?.flush();
  return (shared[KEY] = new Tidegate(options));
}

function client(): Tidegate {
  return (shared[KEY] ??= new Tidegate());
}

/**
 * Sends an event by the client of `configure`, or of the environment: TIDEGATE_URL, TIDEGATE_API_KEY.
 *
 * The promise says what became of it: it is resolved when the event is on the gateway's disk (or was
 * already), and rejected with a `TidegateError` when it was not kept.
 */
export function ingest<Type extends EventType<EventMap>>(
  type: Type,
  payload: Payload<EventMap, Type>,
  options?: IngestOptions,
): Promise<Receipt> {
  return client().ingest(type, payload, options);
}

/** Resolves when the fate of every event that `ingest` was given is known. */
export function flush(): Promise<void> {
  return client().flush();
}

/** Sends what waits, for `timeout` milliseconds at most, and takes no more events. Gives the number of events that were dropped. */
export function close(options?: { timeout?: number }): Promise<number> {
  return client().close(options);
}
