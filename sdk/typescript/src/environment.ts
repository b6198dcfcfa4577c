// What differs between Node, its kin, and pages.

interface NodeLike {
  env?: Record<string, string | undefined>;
  on?: (event: "beforeExit", listener: () => void) => unknown;
}

interface PageLike {
  addEventListener: (event: string, listener: () => void) => void;
  document: { visibilityState: string; addEventListener: (event: string, listener: () => void) => void };
}

function node(): NodeLike | undefined {
  return (globalThis as { process?: NodeLike }).process;
}

function page(): PageLike | undefined {
  const it = globalThis as Partial<PageLike>;
  return it.document && it.addEventListener ? (it as PageLike) : undefined;
}

export const isPage = (): boolean => page() !== undefined;

/** A variable of the environment. Pages have none, and Deno may not let us see it. */
export function variable(name: string): string | undefined {
  try {
    return node()?.env?.[name] || undefined;
  } catch {
    return undefined;
  }
}

/** Someone who has events that wait. */
export interface Waiting {
  /** The process has nothing else to do. */
  ending(): void;
  /** The page may be gone in a moment. */
  leaving(): void;
}

const waiting = new Set<Waiting>();
let listens = false;

/** From now on `it` is told when the program is about to end, until it is forgotten. */
export function remember(it: Waiting): void {
  waiting.add(it);
  if (listens) return;
  listens = true;
  const seen = page();
  if (seen) {
    const leave = () => [...waiting].forEach((each) => each.leaving());
    seen.addEventListener("pagehide", leave);
    // On phones this is often the last that a page hears.
    seen.document.addEventListener("visibilitychange", () => {
      if (seen.document.visibilityState === "hidden") leave();
    });
  } else {
    node()?.on?.("beforeExit", () => [...waiting].forEach((each) => each.ending()));
  }
}

export function forget(it: Waiting): void {
  waiting.delete(it);
}

export type Timer = ReturnType<typeof setTimeout>;

/** A timer that does not keep the process alive. */
export function lightTimer(then: () => void, milliseconds: number): Timer {
  const timer = setTimeout(then, milliseconds);
  (timer as { unref?: () => void }).unref?.();
  return timer;
}
