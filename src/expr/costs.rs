//! What evaluations may cost: each one, and all of those for one event together.
//!
//! Work is counted in bytes that are looked through or copied, never in time, so that the same event has
//! the same plan everywhere.

use std::{borrow::Cow, cell::Cell};

use minijinja::{
    Environment, Error, ErrorKind, State, filters,
    value::{Kwargs, Rest, Value, ValueKind, ValueOrKwargs},
};

use super::json;

/// Bytes that one evaluation may look through or copy, beyond reading what is stored.
const WORK: usize = 32 * 1024 * 1024;
/// The same of all evaluations for one event, whatever its pipelines and routes are.
const EVENT_WORK: usize = 8 * WORK;
/// What an item of a list costs beside its bytes: about what it takes to make or to compare one.
pub(super) const ITEM: usize = 32;
thread_local! {
    /// What is left of [`WORK`] for the evaluation that runs in this thread.
    static LEFT: Cell<usize> = const { Cell::new(0) };
    /// What this evaluation was given.
    static GIVEN: Cell<usize> = const { Cell::new(0) };
    /// What is left for other evaluations for the same event; `None`: there is no more than one.
    static EVENT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// What all evaluations for one event may do together, whatever its pipelines and routes are.
#[derive(Clone, Copy, Debug)]
pub struct EventBudget(usize);

impl Default for EventBudget {
    fn default() -> Self {
        Self(EVENT_WORK)
    }
}

impl EventBudget {
    /// Whether nothing is left: what is evaluated from now on fails.
    pub fn is_spent(self) -> bool {
        self.0 == 0
    }

    /// Evaluations in `work`, in this thread, pay from this budget.
    pub fn pay_for<T>(&mut self, work: impl FnOnce() -> T) -> T {
        /// Whatever happens, evaluations for others in this thread pay for themselves again.
        struct Reset;
        impl Drop for Reset {
            fn drop(&mut self) {
                EVENT.set(None);
            }
        }
        let reset = Reset;
        EVENT.set(Some(self.0));
        LEFT.set(0);
        GIVEN.set(0);
        let done = work();
        settle();
        self.0 = EVENT.get().unwrap_or_default();
        drop(reset);
        done
    }
}

/// The event pays for what the evaluation before has used.
fn settle() {
    let used = GIVEN.get() - LEFT.get();
    LEFT.set(0);
    GIVEN.set(0);
    EVENT.set(EVENT.get().map(|it| it.saturating_sub(used)));
}

/// Starts an evaluation in this thread.
pub(super) fn start() {
    settle();
    let work = EVENT.get().map_or(WORK, |left| WORK.min(left));
    LEFT.set(work);
    GIVEN.set(work);
}

/// Pays for work that one instruction does on many bytes.
pub(super) fn spend(bytes: usize) -> Result<(), Error> {
    let left = LEFT.get().checked_sub(bytes).ok_or_else(|| Error::from(ErrorKind::OutOfFuel))?;
    LEFT.set(left);
    Ok(())
}

/// The bytes of a value as a filter sees it: a list that was computed costs what its items do.
pub(super) fn pay_for(value: &Value) -> Result<(), Error> {
    let own = |it: &Value| match it.as_str() {
        Some(text) => Some(text.len()),
        None => it.downcast_object_ref::<json::Json>().map(|it| it.bytes().len()),
    };
    if let Some(size) = own(value) {
        return spend(size);
    }
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => {
            for item in value.try_iter()? {
                spend(ITEM + own(&item).or(item.len()).unwrap_or_default())?;
            }
            Ok(())
        }
        ValueKind::Map => spend(ITEM * value.len().unwrap_or_default()),
        _ => spend(ITEM),
    }
}

/// Sorting looks at each item several times.
fn pay_for_order(value: &Value) -> Result<(), Error> {
    let looks = value.len().unwrap_or_default().max(2).ilog2();
    (1..looks).try_for_each(|_| pay_for(value))
}

/// Filters that call another filter or a test for each item: each of those calls is paid, too. And those
/// that compare the items with each other.
pub(super) fn add_list_filters(engine: &mut Environment<'_>) {
    type Name<'a> = Option<Cow<'a, str>>;
    engine.add_filter(
        "map",
        |state: &mut State<'_, '_>, list: Value, rest: Rest<ValueOrKwargs>| {
            pay_for(&list)?;
            filters::map(state, list, rest)
        },
    );
    engine.add_filter(
        "select",
        |state: &mut State<'_, '_>, list: Value, test: Name<'_>, rest: Rest<ValueOrKwargs>| {
            pay_for(&list)?;
            filters::select(state, list, test, rest)
        },
    );
    engine.add_filter(
        "reject",
        |state: &mut State<'_, '_>, list: Value, test: Name<'_>, rest: Rest<ValueOrKwargs>| {
            pay_for(&list)?;
            filters::reject(state, list, test, rest)
        },
    );
    engine.add_filter(
        "selectattr",
        |state: &mut State<'_, '_>,
         list: Value,
         name: Cow<'_, str>,
         test: Name<'_>,
         rest: Rest<ValueOrKwargs>| {
            pay_for(&list)?;
            filters::selectattr(state, list, name, test, rest)
        },
    );
    engine.add_filter(
        "rejectattr",
        |state: &mut State<'_, '_>,
         list: Value,
         name: Cow<'_, str>,
         test: Name<'_>,
         rest: Rest<ValueOrKwargs>| {
            pay_for(&list)?;
            filters::rejectattr(state, list, name, test, rest)
        },
    );
    engine.add_filter("sort", |state: &State<'_, '_>, list: Value, options: Kwargs| {
        pay_for_order(&list)?;
        filters::sort(state, list, options)
    });
    engine.add_filter("unique", |state: &State<'_, '_>, list: Value, options: Kwargs| {
        pay_for_order(&list)?;
        filters::unique(state, list, options)
    });
}
