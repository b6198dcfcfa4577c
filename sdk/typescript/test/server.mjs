// A gateway that does as it is told, request by request, and keeps what it is sent.
import { createServer } from "node:http";
import { once } from "node:events";

/** `behave(request)` gives `{ status, headers, body }`, "hang", "reset", or nothing, which keeps the events. */
export async function gateway(behave = () => undefined) {
  const kept = new Map();
  const requests = [];
  const server = createServer(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const events = JSON.parse(Buffer.concat(chunks).toString("utf8"));
    const seen = { number: requests.length, headers: request.headers, url: request.url, events };
    requests.push(seen);
    const told = behave(seen) ?? {};
    if (told.keeps || !(told === "hang" || told === "reset" || told.status)) {
      var results = events.map((event) => keep(kept, event));
    }
    if (told === "hang" || told.then === "hang") return;
    if (told === "reset" || told.then === "reset") return void request.socket.destroy();
    response.writeHead(told.status ?? 202, { "content-type": "application/json", ...told.headers });
    response.end(told.body ?? JSON.stringify({ results }));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const close = () => {
    server.closeAllConnections();
    return new Promise((done) => server.close(done));
  };
  return { url: `http://127.0.0.1:${server.address().port}`, kept, requests, close };
}

function keep(kept, event) {
  const key = event.idempotency_key ?? event.id;
  const first = kept.get(key);
  if (first) {
    const same_body = JSON.stringify(first.payload) === JSON.stringify(event.payload);
    return { status: "duplicate", id: first.id, same_body, same_type: first.type === event.type };
  }
  kept.set(key, event);
  return { status: "accepted", id: event.id };
}
