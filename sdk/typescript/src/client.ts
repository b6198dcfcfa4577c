// The client: takes events, sends them in batches, and tries again until it knows what became of them.
import { forget, isPage, lightTimer, remember, variable, type Timer, type Waiting } from "./environment.js";
import { TidegateError } from "./errors.js";
import { newEventId } from "./id.js";
import type { EventMap } from "./index.js";
import { Entry, Queue, type Receipt } from "./queue.js";
import { waitBefore } from "./retry.js";
import { post, type Outcome, type Target } from "./transport.js";

/** The types of a map. A map without any, which is what nobody has generated, allows all. */
export type EventType<Events extends object = EventMap> = keyof Events extends never
  ? string
  : Extract<keyof Events, string>;

/** The payload of a type. */
export type Payload<Events extends object, Type extends string> = Type extends keyof Events ? Events[Type] : unknown;

export interface IngestOptions {
  /**
   * Makes two events one, for ever, in the project, whatever their types are: so name the event and the thing
   * that it happened to, such as `signup:${user.id}`, and never the user alone. Without it, each call is an
   * event of its own, which is kept once all the same, however often it must be sent.
   */
  idempotencyKey?: string | undefined;
  /** When it happened. Without it: now. */
  timestamp?: Date | string | undefined;
  /** About the event, beside the payload. */
  metadata?: Record<string, unknown> | undefined;
  /** The name of a source of the project, other than the client's. */
  source?: string | undefined;
  /** Gives the event up. */
  signal?: AbortSignal | undefined;
}

/** An event that was not kept, as it would have been posted. */
export interface DroppedEvent {
  id: string;
  type: string;
  payload: unknown;
  timestamp: string;
  idempotency_key?: string;
  metadata?: Record<string, unknown>;
  source?: string;
}

export interface Options {
  /** Address of the gateway. Without it: `TIDEGATE_URL`. */
  url?: string | undefined;
  /** A key with the scope `ingest`. Without it: `TIDEGATE_API_KEY`. */
  apiKey?: string | undefined;
  /** The project, for a key of all projects. Without it: `TIDEGATE_PROJECT`. */
  project?: string | undefined;
  /** The name of the source that events are posted to. Without it: the project's oldest. */
  source?: string | undefined;
  /** So many events that wait are sent at once. 100. */
  flushAt?: number | undefined;
  /** Milliseconds that an event waits for others to share a request with. 10; in a page, 250. */
  flushInterval?: number | undefined;
  /** Events that may wait. More are dropped. 100,000. */
  queueEvents?: number | undefined;
  /** Bytes of events that may wait. More are dropped. 64 MiB. */
  queueBytes?: number | undefined;
  /** Milliseconds that a request may take. 10,000. */
  timeout?: number | undefined;
  /** Milliseconds for which an event is tried again. Five minutes. */
  retryFor?: number | undefined;
  /**
   * An event is not kept, and will not be tried again. Without it, a line is written to
   * `console.error`. The promise of the call is rejected with the same error.
   */
  onDrop?: ((event: DroppedEvent, error: TidegateError) => void) | undefined;
  /** Another `fetch`. */
  fetch?: typeof fetch | undefined;
}

/** What the gateway takes in one request, with room to spare. */
const BATCH_EVENTS = 1000;
const BATCH_BYTES = 4 * 1024 * 1024;
/** Browsers let requests outlive their page up to 64 KiB, all together. */
const FAREWELL_BYTES = 60 * 1024;

/**
 * Sends events to one gateway, in the order of the calls, each kept once.
 *
 * One request is on its way at a time; what is ingested meanwhile shares the next.
 */
export class Tidegate<Events extends object = EventMap> {
  readonly #options: Options;
  readonly #queue: Queue;
  readonly #waiting: Waiting = {
    ending: () => this.#wake(),
    leaving: () => this.#sayFarewell(),
  };
  readonly #stop = new AbortController();
  #timer: Timer | undefined;
  #retry: Timer | undefined;
  #sending = false;
  #failures = 0;
  /** Becomes less when the gateway finds a request too large. */
  #batchEvents = BATCH_EVENTS;
  #closed = false;

  constructor(options: Options = {}) {
    this.#options = options;
    this.#queue = new Queue(options.queueEvents ?? 100_000, options.queueBytes ?? 64 * 1024 * 1024);
  }

  /** Events whose fate is open. */
  get pending(): number {
    return this.#queue.length;
  }

  /**
   * Sends an event. The promise says what became of it: it is resolved when the event is on the gateway's
   * disk (or was already), and rejected with a `TidegateError` when it was not kept. Who does not wait for
   * it hears of a failure by `onDrop`.
   */
  ingest<Type extends EventType<Events>>(
    type: Type,
    payload: Payload<Events, Type>,
    options: IngestOptions = {},
  ): Promise<Receipt> {
    const entry = this.#entry(type, payload, options);
    if (entry instanceof TidegateError) {
      const refused = Promise.reject<Receipt>(entry);
      refused.catch(() => {});
      this.#tell({ id: "", type, payload, timestamp: "" }, entry);
      return refused;
    }
    const { signal } = options;
    if (this.#closed) {
      this.#drop(entry, new TidegateError("closed", "the client is closed"));
    } else if (signal?.aborted) {
      this.#drop(entry, aborted(signal));
    } else if (!this.#queue.hasRoomFor(entry)) {
      this.#drop(entry, new TidegateError("queue-full", "more events wait than may"));
    } else {
      if (signal) this.#dropOn(signal, entry);
      this.#queue.add(entry);
      remember(this.#waiting);
      this.#schedule();
    }
    return entry.done;
  }

  /** Sends what waits without waiting for more, and resolves when the fate of all of it is known. */
  async flush(): Promise<void> {
    const fates = this.#queue.entries.map((entry) => entry.done.catch(() => {}));
    this.#wake();
    await Promise.all(fates);
  }

  /**
   * Takes no more events, and sends what waits. What has no answer after `timeout` milliseconds (10,000) is
   * dropped. Gives the number of events that were dropped for that.
   */
  async close({ timeout = 10_000 }: { timeout?: number } = {}): Promise<number> {
    this.#closed = true;
    let timer: Timer | undefined;
    const over = new Promise<void>((resolve) => (timer = setTimeout(resolve, timeout)));
    await Promise.race([this.flush(), over]);
    clearTimeout(timer);
    const left = this.#queue.entries.filter((entry) => !entry.settled);
    for (const entry of left) {
      this.#drop(entry, new TidegateError("closed", "the client was closed before the event was answered"));
    }
    clearTimeout(this.#retry);
    this.#stop.abort();
    this.#sweep();
    return left.length;
  }

  #entry(type: string, payload: unknown, options: IngestOptions): Entry | TidegateError {
    const target = this.#target();
    if (target instanceof TidegateError) return target;
    const id = newEventId();
    try {
      // JSON has no word for these, and the gateway none for an event without a payload.
      if (JSON.stringify(payload) === undefined) throw new TypeError("it is not a JSON value");
      const { timestamp = new Date(), metadata, idempotencyKey } = options;
      const event: DroppedEvent = {
        id,
        type,
        payload,
        timestamp: typeof timestamp === "string" ? timestamp : timestamp.toISOString(),
      };
      const source = options.source ?? this.#options.source;
      if (idempotencyKey !== undefined) event.idempotency_key = idempotencyKey;
      if (metadata !== undefined) event.metadata = metadata;
      if (source !== undefined) event.source = source;
      return new Entry(id, JSON.stringify(event), performance.now() + (this.#options.retryFor ?? 300_000));
    } catch (cause) {
      return new TidegateError("invalid", `the event cannot be written as JSON: ${String(cause)}`, { cause });
    }
  }

  #target(): Target | TidegateError {
    const { url = variable("TIDEGATE_URL"), apiKey = variable("TIDEGATE_API_KEY") } = this.#options;
    const project = this.#options.project ?? variable("TIDEGATE_PROJECT");
    const missing = [url ? "" : "`url` (or TIDEGATE_URL)", apiKey ? "" : "`apiKey` (or TIDEGATE_API_KEY)"];
    if (!url || !apiKey) {
      return new TidegateError("unconfigured", `there is no ${missing.filter(Boolean).join(" and no ")}`);
    }
    return {
      url: url.replace(/\/+$/, ""),
      apiKey,
      project,
      timeout: this.#options.timeout ?? 10_000,
      // Looked up late, and called without an owner, which browsers insist on.
      fetch: this.#options.fetch ?? ((...words) => globalThis.fetch(...words)),
    };
  }

  #schedule(): void {
    const interval = this.#options.flushInterval ?? (isPage() ? 250 : 10);
    if (this.#queue.length >= (this.#options.flushAt ?? 100) || this.#queue.bytes >= BATCH_BYTES) {
      this.#wake();
    } else {
      this.#timer ??= lightTimer(() => this.#wake(), interval);
    }
  }

  #wake(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (this.#sending || this.#retry !== undefined || this.#queue.length === 0) return;
    this.#sending = true;
    void this.#send();
  }

  /** Sends until nothing waits, or the gateway wants to be left alone. Never rejects. */
  async #send(): Promise<void> {
    while (this.#queue.length > 0) {
      const batch = this.#queue.first(this.#batchEvents, BATCH_BYTES);
      const target = this.#target();
      const outcome: Outcome =
        target instanceof TidegateError
          ? { kind: "never", cause: target }
          : await post(target, batch.map((entry) => entry.json), { signal: this.#stop.signal });
      this.#settle(batch, outcome);
      if (outcome.kind === "later" && this.#queue.length > 0) {
        this.#failures += 1;
        // This timer keeps the process alive: events wait.
        const wait = waitBefore(this.#failures, outcome.wait, Math.random());
        this.#retry = setTimeout(() => {
          this.#retry = undefined;
          this.#wake();
        }, wait);
        break;
      }
      if (outcome.kind !== "later") this.#failures = 0;
    }
    // In the same turn in which the queue was seen empty, so that nobody is left waiting behind it.
    this.#sending = false;
  }

  #settle(batch: readonly Entry[], outcome: Outcome): void {
    for (const [place, entry] of batch.entries()) {
      if (entry.settled) continue;
      if (outcome.kind === "answered") {
        const result = outcome.results[place]!;
        if (result.status === "rejected") this.#drop(entry, rejection(result.errors));
        else entry.keep(result);
      } else if (outcome.kind === "never") {
        this.#drop(entry, outcome.cause);
      } else if (outcome.kind === "smaller" && batch.length === 1) {
        this.#drop(entry, outcome.cause);
      } else if (outcome.kind === "later" && entry.deadline <= performance.now()) {
        const what = "the event was tried for as long as it may be; whether it was kept is not known";
        this.#drop(entry, new TidegateError("expired", what, { cause: outcome.cause, status: outcome.cause.status }));
      }
    }
    if (outcome.kind === "smaller") this.#batchEvents = Math.max(1, Math.floor(batch.length / 2));
    this.#sweep();
  }

  /**
   * The page may be gone before any answer: everything that is open goes out once more in a request that
   * outlives it, also what is on its way, which the browser may cut off. The ids make it one.
   */
  #sayFarewell(): void {
    const target = this.#target();
    const batch = this.#queue.first(BATCH_EVENTS, FAREWELL_BYTES);
    if (target instanceof TidegateError || batch.length === 0) return;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const events = batch.map((entry) => entry.json);
    void post(target, events, { keepalive: true }).then((outcome) => {
      // A page that came back tries again itself.
      if (outcome.kind === "answered") this.#settle(batch, outcome);
      if (this.#queue.length > 0) this.#schedule();
    });
  }

  #dropOn(signal: AbortSignal, entry: Entry): void {
    const abort = () => {
      if (entry.settled) return;
      this.#drop(entry, aborted(signal));
      this.#sweep();
    };
    signal.addEventListener("abort", abort, { once: true });
    const end = () => signal.removeEventListener("abort", abort);
    entry.done.then(end, end);
  }

  #drop(entry: Entry, error: TidegateError): void {
    entry.drop(error);
    this.#tell(JSON.parse(entry.json), error);
  }

  #tell(event: DroppedEvent, error: TidegateError): void {
    const { onDrop } = this.#options;
    if (!onDrop) {
      console.error(`tidegate: an event \`${event.type}\` was not kept: ${error.message}`);
      return;
    }
    try {
      onDrop(event, error);
    } catch (thrown) {
      console.error("tidegate: onDrop threw", thrown);
    }
  }

  #sweep(): void {
    this.#queue.sweep();
    if (this.#queue.length === 0) forget(this.#waiting);
  }
}

function rejection(errors: TidegateError["errors"]): TidegateError {
  const said = errors.map((it) => `${it.field}: ${it.rule}; found ${it.found}`).join(", ");
  return new TidegateError("rejected", `the gateway rejected the event: ${said}`, { errors });
}

function aborted(signal: AbortSignal): TidegateError {
  return new TidegateError("aborted", "the caller gave the event up", { cause: signal.reason });
}
