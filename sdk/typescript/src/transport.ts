// One request to the gateway, and what it means for each of its events.
import { isPage } from "./environment.js";
import { TidegateError, type FieldError } from "./errors.js";
import { isPassing, retryAfter } from "./retry.js";

export const VERSION = "0.1.0";

/** Where to, and as whom. */
export interface Target {
  url: string;
  apiKey: string;
  project: string | undefined;
  timeout: number;
  fetch: typeof fetch;
}

/** What became of one event of a request. */
export type Result =
  | { status: "accepted"; id: string }
  /** A gateway of an older version says nothing of the type. */
  | { status: "duplicate"; id: string; same_body: boolean | null; same_type?: boolean | null }
  | { status: "rejected"; errors: readonly FieldError[] }
  | { status: "suppressed" };

export type Outcome =
  /** One result for each event, in their order. */
  | { kind: "answered"; results: readonly Result[] }
  /** Nobody knows, or nothing was kept: the same again, after `wait` milliseconds at least. */
  | { kind: "later"; wait: number | undefined; cause: TidegateError }
  /** The request was too large. */
  | { kind: "smaller"; cause: TidegateError }
  /** The same again would be refused again. */
  | { kind: "never"; cause: TidegateError };

interface Problem {
  title?: string;
  detail?: string;
  errors?: FieldError[];
}

/** Sends events, each of which is a JSON text. `keepalive` lets the request outlive the page. */
export async function post(
  target: Target,
  events: readonly string[],
  options: { keepalive?: boolean; signal?: AbortSignal },
): Promise<Outcome> {
  const aborter = new AbortController();
  const abort = () => aborter.abort();
  const timer = setTimeout(abort, target.timeout);
  options.signal?.addEventListener("abort", abort);
  try {
    const response = await target.fetch(`${target.url}/api/v1/events/batch`, {
      method: "POST",
      headers: headers(target),
      body: `[${events.join(",")}]`,
      redirect: "manual",
      signal: aborter.signal,
      ...(options.keepalive ? { keepalive: true } : {}),
      ...(isPage() ? { credentials: "omit" as const } : {}),
    });
    return outcome(response, await response.text(), events.length);
  } catch (cause) {
    const what = aborter.signal.aborted
      ? `the gateway did not answer within ${target.timeout} ms`
      : "the gateway cannot be reached, or the connection broke";
    return { kind: "later", wait: undefined, cause: new TidegateError("expired", what, { cause }) };
  } finally {
    clearTimeout(timer);
    options.signal?.removeEventListener("abort", abort);
  }
}

function headers(target: Target): Record<string, string> {
  const headers: Record<string, string> = {
    authorization: `Bearer ${target.apiKey}`,
    "content-type": "application/json",
  };
  if (target.project !== undefined) headers["tidegate-project"] = target.project;
  // A page's is the browser's, and says more.
  if (!isPage()) headers["user-agent"] = `tidegate-sdk/${VERSION}`;
  return headers;
}

function outcome(response: Response, text: string, count: number): Outcome {
  const { status } = response;
  if (status === 200 || status === 202) {
    const results = resultsOf(text);
    if (results?.length === count) return { kind: "answered", results };
    const what = "what answers at this URL is no Tidegate";
    return { kind: "never", cause: new TidegateError("refused", what, { status }) };
  }
  const problem = problemOf(text);
  const errors = problem.errors ?? [];
  const said = [problem.title, problem.detail].filter(Boolean).join(": ") || "the gateway refused";
  const redirects = status === 0 || (status >= 300 && status < 400);
  const cause = (code: "expired" | "refused" | "rejected") =>
    new TidegateError(code, redirects ? "the gateway redirects: use the URL behind it" : `${said} (${status})`, {
      status,
      errors,
    });
  if (isPassing(status)) {
    const wait = retryAfter(response.headers.get("retry-after"), Date.now());
    return { kind: "later", wait, cause: cause("expired") };
  }
  if (status === 413) return { kind: "smaller", cause: cause("rejected") };
  const each = status === 422 || status === 400 ? errorsOfEach(errors, count) : undefined;
  if (each) return { kind: "answered", results: each.map((errors) => ({ status: "rejected", errors })) };
  return { kind: "never", cause: cause("refused") };
}

function resultsOf(text: string): Result[] | undefined {
  try {
    const results: unknown = JSON.parse(text).results;
    return Array.isArray(results) ? results : undefined;
  } catch {
    return undefined;
  }
}

function problemOf(text: string): Problem {
  try {
    const problem: unknown = JSON.parse(text);
    return typeof problem === "object" && problem !== null ? problem : {};
  } catch {
    return {};
  }
}

/** When every event is at fault, the errors stand in one list: `events[3].type` is about the fourth. */
function errorsOfEach(errors: readonly FieldError[], count: number): FieldError[][] | undefined {
  const each: FieldError[][] = Array.from({ length: count }, () => []);
  for (const error of errors) {
    const place = /^events\[(\d+)\]\.?/.exec(error.field);
    const own = place && each[Number(place[1])];
    if (!own) return undefined;
    own.push({ ...error, field: error.field.slice(place[0].length) });
  }
  return each.every((own) => own.length > 0) ? each : undefined;
}
