// When to try again.

const FIRST = 250;
const LONGEST = 30_000;
/** More than this nobody is asked to wait at once; `retryFor` decides about the whole. */
const LONGEST_ASKED = 10 * 60_000;

/**
 * Milliseconds before the next try, after so many failures in a row: twice as long each time, of which
 * the second half is drawn, so that clients that failed together do not come back together. What the
 * gateway asks for is the least.
 */
export function waitBefore(failures: number, asked: number | undefined, random: number): number {
  const whole = Math.min(LONGEST, FIRST * 2 ** Math.min(failures - 1, 20));
  const drawn = whole / 2 + (whole / 2) * random;
  if (asked === undefined) return drawn;
  // The part on top keeps those apart who were told the same.
  return Math.max(drawn, Math.min(asked, LONGEST_ASKED) + random * FIRST);
}

/** `Retry-After` in milliseconds: seconds, or a date. */
export function retryAfter(header: string | null, now: number): number | undefined {
  const text = header?.trim();
  if (!text) return undefined;
  if (/^\d+$/.test(text)) return Number(text) * 1000;
  const at = Date.parse(text);
  return Number.isNaN(at) ? undefined : Math.max(0, at - now);
}

/** Whether the same request may be taken another time: the server was not there, too busy, or out of order. */
export function isPassing(status: number): boolean {
  // 501 and 505 say what the server cannot do; 508 that the event goes in circles.
  return [408, 425, 429].includes(status) || (status >= 500 && ![501, 505, 508].includes(status));
}
