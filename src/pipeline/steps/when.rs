//! A condition that lets events through, of a pipeline, a route or a step.

use crate::expr::{Condition, ExprError, Names};

/// A condition, with what people read when it does not hold.
pub struct When {
    pub condition: Condition,
    pub reason: String,
}

impl When {
    /// Of its source, after steps that added `names`.
    pub fn compile(source: &str, names: &Names<'_>) -> Result<Self, ExprError> {
        let condition = Condition::compile_with(source, names)?;
        Ok(Self { condition, reason: does_not_hold(source) })
    }
}

/// What people read when a condition does not hold.
fn does_not_hold(source: &str) -> String {
    /// How much of the condition is repeated.
    const SHOWN: usize = 200;
    let shown: String = source.chars().take(SHOWN).collect();
    let more = if shown.len() < source.len() { "…" } else { "" };
    format!("`{shown}{more}` does not hold")
}
