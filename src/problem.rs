//! The only place that turns errors into HTTP (RFC 9457, problem+json).
