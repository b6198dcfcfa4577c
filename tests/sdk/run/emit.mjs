// Emits {n} for n from 0 to COUNT - 1, 250 at a time, and prints what each promise said.
import { Tidegate } from "@tidegate/sdk";

const count = Number(process.argv[2]);
const client = new Tidegate({ timeout: 500, onDrop: (event, error) => console.error(event.payload, error) });
const said = [];
let next = 0;

async function work() {
  while (next < count) {
    const n = next++;
    // Every second one has a key of its own.
    const receipt = await client.ingest("load.sent", { n }, n % 2 === 0 ? { idempotencyKey: `n-${n}` } : {});
    said.push({ n, ...receipt });
  }
}

await Promise.all(Array.from({ length: 250 }, work));
console.log(JSON.stringify(said));
