// The sample of "Track user signups in Webhook", with only the name of the package changed.
const user = { id: "usr_1", email: "ada@acme.com", plan: "pro" as const };

import { ingest } from "@tidegate/sdk";
await ingest("user.signed_up", {
user_id: user.id,
email: user.email,
plan: user.plan,
source: "marketing-site",
}, {
idempotencyKey: user.id, // one signup per user, ever
});
