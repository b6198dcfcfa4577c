//! Signing schemes, secrets at rest, and API keys.
