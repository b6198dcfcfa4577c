// What waits to be sent, in the order of the calls, and never more than it may be.
import { TidegateError } from "./errors.js";
import type { Result } from "./transport.js";

/** What became of an event that the gateway took. */
export interface Receipt {
  /** The event's id; of a duplicate, the first event's. `null` when the event was turned away. */
  id: string | null;
  /** An earlier event had the same idempotency key, and this one was not kept. Never true only because this client tried twice. */
  duplicate: boolean;
  /** Of a duplicate: whether the first event's payload is the same; `null` when that is no longer known. */
  sameBody?: boolean | null;
  /** Of a duplicate: whether the first event has the same type; `null` when that is no longer known. */
  sameType?: boolean | null;
  /** The event's user is to be forgotten, so nothing was kept. */
  suppressed?: true;
}

/** An event on its way. */
export class Entry {
  readonly bytes: number;
  /** Kept or not, its fate is known. */
  settled = false;
  readonly done: Promise<Receipt>;
  #resolve!: (receipt: Receipt) => void;
  #reject!: (error: TidegateError) => void;

  constructor(
    readonly id: string,
    readonly json: string,
    readonly deadline: number,
  ) {
    this.bytes = utf8Length(json);
    this.done = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    // Who does not wait for the promise hears of it by `onDrop`, and is not brought down by it.
    this.done.catch(() => {});
  }

  keep(result: Exclude<Result, { status: "rejected" }>): void {
    this.settled = true;
    if (result.status === "suppressed") {
      this.#resolve({ id: null, duplicate: false, suppressed: true });
    } else if (result.status === "duplicate" && result.id !== this.id) {
      const { id, same_body: sameBody, same_type: sameType } = result;
      this.#resolve({ id, duplicate: true, sameBody, ...(sameType === undefined ? {} : { sameType }) });
    } else {
      // A duplicate of itself: an earlier try was kept, and its answer was lost.
      this.#resolve({ id: result.id, duplicate: false });
    }
  }

  drop(error: TidegateError): void {
    this.settled = true;
    this.#reject(error);
  }
}

export class Queue {
  #entries: Entry[] = [];
  #bytes = 0;

  constructor(
    readonly mostEvents: number,
    readonly mostBytes: number,
  ) {}

  get length(): number {
    return this.#entries.length;
  }

  get bytes(): number {
    return this.#bytes;
  }

  get entries(): readonly Entry[] {
    return this.#entries;
  }

  hasRoomFor(entry: Entry): boolean {
    return this.length < this.mostEvents && this.#bytes + entry.bytes <= this.mostBytes;
  }

  add(entry: Entry): void {
    this.#entries.push(entry);
    this.#bytes += entry.bytes;
  }

  /** The oldest ones, as many as fit, and at least one. They stay until they are settled. */
  first(mostEvents: number, mostBytes: number): Entry[] {
    const taken: Entry[] = [];
    let bytes = 0;
    for (const entry of this.#entries) {
      bytes += entry.bytes + 1;
      if (taken.length > 0 && (taken.length >= mostEvents || bytes > mostBytes)) break;
      taken.push(entry);
    }
    return taken;
  }

  /** Forgets those that are settled. */
  sweep(): void {
    this.#entries = this.#entries.filter((entry) => !entry.settled);
    this.#bytes = this.#entries.reduce((sum, entry) => sum + entry.bytes, 0);
  }
}

function utf8Length(text: string): number {
  let length = text.length;
  for (let place = 0; place < text.length; place++) {
    const unit = text.charCodeAt(place);
    // Each half of a pair counts two, and anything else up to three.
    if (unit > 0x7f) length += unit > 0x7ff && (unit < 0xd800 || unit > 0xdfff) ? 2 : 1;
  }
  return length;
}
