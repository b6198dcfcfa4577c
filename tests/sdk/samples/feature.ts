// The sample of "Track feature usage in Webhook", with only the name of the package changed.
const ctx = { user: { id: "usr_1", plan: "pro" } };

import { ingest } from "@tidegate/sdk";
await ingest("feature.used", {
user_id: ctx.user.id,
feature: "csv.export",
count: 1,
plan: ctx.user.plan,
});
