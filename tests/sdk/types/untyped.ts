// Without a map, any type and any payload compile.
import { ingest } from "@tidegate/sdk";

await ingest("any.thing", { a: 1 });
await ingest("any.thing", null);
// @ts-expect-error: a type is a text
await ingest(7, {});
