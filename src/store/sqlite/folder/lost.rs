//! What would be gone with each file of the folder, in the words of a refusal to start.

pub const JOURNAL: &str = "what was accepted and done last is gone";
pub const SEGMENTS: &str = "events and what became of them are gone";
pub const CONTROL: &str = "resources, secrets and API keys are gone, and no event can be read";
pub const DIRECTORY: &str = "rows of people, companies and tables are gone";
pub const KEYS: &str = "idempotency keys of events that are forgotten would be accepted again";
