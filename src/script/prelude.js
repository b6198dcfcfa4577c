// Runs once in each engine, before any script of a user: makes the world of scripts the same for each
// event, and closes it. What it returns makes a script's factory into what Rust calls.
(() => {
  "use strict";
  const global = globalThis;
  const { parse, stringify } = JSON;
  const { isArray } = Array;
  const { freeze, defineProperty, getPrototypeOf, getOwnPropertyDescriptor } = Object;
  const { ownKeys, construct } = Reflect;

  // Of the event that is being transformed.
  let now = 0;
  let random = 0;
  let logs = null;
  let logged = 0;

  // Time is that at which the event was received, in UTC.
  const RealDate = Date;
  const moments = RealDate.prototype;
  const offset = moments.getTimezoneOffset;
  const hasZone = /(?:Z|[+-]\d\d:?\d\d|UTC|GMT|^\d{4}(?:-\d\d){0,2})\s*$/i;
  const inUtc = (text) => {
    const time = RealDate.parse(text);
    return time !== time || hasZone.test(text)
      ? time
      : time - offset.call(new RealDate(time)) * 60000;
  };
  const EventDate = function Date(...parts) {
    if (!new.target) return new RealDate(now).toUTCString();
    if (parts.length === 0) return construct(RealDate, [now], new.target);
    if (parts.length > 1) return construct(RealDate, [RealDate.UTC(...parts)], new.target);
    const [part] = parts;
    return construct(RealDate, [typeof part === "string" ? inUtc(part) : part], new.target);
  };
  for (const unit of ["FullYear", "Month", "Date", "Day", "Hours", "Minutes", "Seconds", "Milliseconds"]) {
    moments["get" + unit] = moments["getUTC" + unit];
    if (unit !== "Day") moments["set" + unit] = moments["setUTC" + unit];
  }
  moments.getTimezoneOffset = function getTimezoneOffset() { return 0; };
  for (const form of ["toString", "toLocaleString", "toDateString", "toLocaleDateString", "toTimeString", "toLocaleTimeString"]) {
    moments[form] = moments.toUTCString;
  }
  EventDate.prototype = moments;
  moments.constructor = EventDate;
  EventDate.UTC = RealDate.UTC;
  EventDate.parse = inUtc;
  EventDate.now = () => now;
  global.Date = EventDate;

  // Chance comes from the event's id: mulberry32.
  Math.random = () => {
    random = (random + 0x6d2b79f5) | 0;
    let mixed = Math.imul(random ^ (random >>> 15), 1 | random);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };

  const shown = (it) => {
    if (typeof it === "string") return it;
    try { return stringify(it) ?? String(it); } catch { return "(not shown)"; }
  };
  const log = (...values) => {
    if (logs === null || logs.length >= 100 || logged >= 16384) return;
    const line = values.map(shown).join(" ").slice(0, 2048);
    logged += line.length;
    logs.push(line);
  };
  global.console = { log, info: log, warn: log, error: log, debug: log };

  // Nothing that makes code of texts, waits, or sees what was freed.
  const refuse = () => function () { throw new TypeError("code cannot be made of a text here"); };
  for (const sample of [function () {}, function* () {}, async function () {}, async function* () {}]) {
    defineProperty(getPrototypeOf(sample), "constructor", { value: refuse() });
  }
  const kept = new Set([
    "globalThis", "Infinity", "NaN", "undefined", "parseInt", "parseFloat", "isNaN", "isFinite",
    "decodeURI", "decodeURIComponent", "encodeURI", "encodeURIComponent", "escape", "unescape",
    "Object", "Array", "Boolean", "String", "Number", "BigInt", "Symbol", "Date", "RegExp", "Math",
    "JSON", "Reflect", "Map", "Set", "WeakMap", "WeakSet", "Iterator", "console",
    "Error", "EvalError", "RangeError", "ReferenceError", "SyntaxError", "TypeError", "URIError",
    "AggregateError", "ArrayBuffer", "DataView", "Uint8Array", "Int8Array", "Uint8ClampedArray",
    "Int16Array", "Uint16Array", "Int32Array", "Uint32Array", "Float32Array", "Float64Array",
    "BigInt64Array", "BigUint64Array",
  ]);
  for (const name of ownKeys(global)) {
    if (!kept.has(name)) delete global[name];
  }

  // A frozen prototype would forbid `error.name = …` on what inherits from it: accessors allow it.
  const assignable = (holder) => {
    for (const key of ownKeys(holder)) {
      const { value, writable } = getOwnPropertyDescriptor(holder, key);
      if (!writable || key === "constructor") continue;
      defineProperty(holder, key, {
        get: () => value,
        set(other) {
          if (this === holder) throw new TypeError("it belongs to all events and cannot be changed");
          defineProperty(this, key, { value: other, writable: true, enumerable: true, configurable: true });
        },
      });
    }
  };
  assignable(Object.prototype);
  for (const name of ["Error", "EvalError", "RangeError", "ReferenceError", "SyntaxError", "TypeError", "URIError"]) {
    assignable(global[name].prototype);
  }

  // Everything that can be reached is frozen, so that no event leaves anything to the next.
  const seen = new Set();
  const waiting = [
    global, function* () {}, async function () {}, async function* () {}, [][Symbol.iterator](),
    new Map().entries(), new Set().values(), ""[Symbol.iterator](), "".matchAll(/x/g),
    (function* () {})(), (async function* () {})(), (async () => {})(), [].values().map((it) => it),
  ];
  while (waiting.length > 0) {
    const it = waiting.pop();
    if (it === null || (typeof it !== "object" && typeof it !== "function") || seen.has(it)) continue;
    seen.add(it);
    waiting.push(getPrototypeOf(it));
    for (const key of ownKeys(it)) {
      const { value, get, set } = getOwnPropertyDescriptor(it, key);
      waiting.push(value, get, set);
    }
    if (!ArrayBuffer.isView(it)) freeze(it);
  }

  const told = (result, most, size) => {
    if (result === null) return null;
    if (typeof result !== "object") throw new TypeError("it must return an event, a list of events, or null");
    if (typeof result.then === "function") throw new TypeError("it must not be asynchronous");
    const list = isArray(result) ? result : [result];
    if (list.length > most) throw new RangeError(`it may return at most ${most} events`);
    const parts = [];
    for (let place = 0; place < list.length; place += 1) {
      const it = list[place];
      if (it === null || typeof it !== "object" || isArray(it)) throw new TypeError("what it returns must be events, which are objects");
      const { type, payload, metadata } = it;
      if (type !== undefined && typeof type !== "string") throw new TypeError("the type of an event must be a text");
      const json = stringify(payload);
      if (json === undefined) throw new TypeError("an event that it returns must have a payload");
      const about = metadata === undefined ? "" : stringify(metadata) ?? "";
      size -= json.length + about.length;
      if (size < 0) throw new RangeError("what it returns is too large");
      parts.push(type ?? "", json, about);
    }
    return parts;
  };

  return [
    (factory, most, size) => (event, context, at, seed, listens) => {
      now = at;
      random = seed;
      logs = listens ? [] : null;
      logged = 0;
      const transform = factory();
      if (typeof transform !== "function") throw new TypeError("the default export must be a function");
      return event === undefined ? null : told(transform(event, context), most, size);
    },
    () => logs ?? [],
    // One JSON as this engine would write it: to know whether a part came back as it was.
    (json) => stringify(parse(json)),
  ];
})()
