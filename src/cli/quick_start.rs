//! `--quick-start`: a demo project, an endpoint in this process, a `curl` to paste, and the story of
//! each event as it is shown by the parts that it passes.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

use super::{
    error::{CliError, Result},
    output::{self, Paint},
    schemes::{SignScheme, Verifier},
    sink::{self, Judgement},
};
use crate::{
    app::{App, PlannedThrough},
    catalog::{Edit, Resource},
    clock::{Clock as _, SystemClock},
    config::Config,
    crypto::{KeyHasher, PlainKey, Random as _, SystemRandom, signature::standard},
    destinations::egress::policy::Net,
    model::{ApiKey, Ended, EntryKind, EventId, EventSeq, KeyId, Name, ProjectId, Scope, Secret},
    resources::File,
    store::{Database, EventRecord, StoreError},
    tail::{Activity, MissedSights, Sight, Watcher},
};

const RESOURCES: &str = include_str!("quick_start.yaml");
const LOOPBACK: &str = "127.0.0.0/8";

/// The sink is on this machine, so endpoints must be allowed to be.
pub fn allow_loopback(config: &mut Config) {
    config.egress.allow_nets.extend(LOOPBACK.parse::<Net>());
}

/// What runs beside the gateway.
pub struct QuickStart {
    sink: JoinHandle<()>,
    story: JoinHandle<()>,
    _stop: oneshot::Sender<()>,
}

impl QuickStart {
    pub fn stop(self) {
        self.sink.abort();
        self.story.abort();
    }
}

/// Starts the sink, makes the resources, and prints what to do.
pub async fn start(app: &App) -> Result<QuickStart> {
    let failed = |source| CliError::File { what: "the sink cannot listen".to_owned(), source };
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(failed)?;
    let url = format!("http://{}/", listener.local_addr().map_err(failed)?);
    let secret = standard::new_secret(&SystemRandom);
    let verifier = Verifier::new(SignScheme::default(), std::slice::from_ref(&secret), None)?;

    let variable = |name: &str| match name {
        "SINK_URL" => Some(Secret::new(url.as_str())),
        "SINK_SECRET" => Some(secret.clone()),
        _ => None,
    };
    let file = File::read("quick_start.yaml", RESOURCES, &variable)
        .map_err(|error| CliError::failed(error.to_string()))?;
    app.apply(&file).await.map_err(|error| CliError::failed(error.to_string()))?;
    let (project, key) =
        make_key(app).await.map_err(|error| CliError::failed(error.to_string()))?;

    let verdicts = Arc::new(Verdicts::default());
    let options = sink::Options { verifier: Some(verifier), ..sink::Options::default() };
    let (stop, stopped) = oneshot::channel::<()>();
    let heard = verdicts.clone();
    let on_received = move |it: &sink::Received| heard.note(it.id.as_deref(), it.signature);
    let sink = tokio::spawn(async move {
        let stopped = async move { drop(stopped.await) };
        sink::serve(listener, options, on_received, stopped).await;
    });
    greet(app, &url, &key);
    let story = Story {
        database: app.database.clone(),
        project,
        planned: app.planned.clone(),
        verdicts,
        paint: Paint::for_stderr(),
        introduced: HashSet::new(),
    };
    let story = tokio::spawn(story.tell(app.tail.watch()));
    Ok(QuickStart { sink, story, _stop: stop })
}

/// A key for the demo project. It takes the place of the last start's, which nobody can show again.
async fn make_key(app: &App) -> Result<(ProjectId, PlainKey), StoreError> {
    let plain = PlainKey::generate(&SystemRandom);
    let hash = KeyHasher::of(&app.vault).hash(&plain);
    let now = SystemClock.now();
    app.catalog_writer
        .edit(|catalog| {
            let missing = StoreError::Damaged { what: "demo project" };
            let project = catalog.project_named("demo").ok_or(missing)?.id;
            let name = Name::trusted("quick-start");
            let old = catalog.keys.values().filter(|it| it.project == Some(project));
            let old = old.filter(|it| it.name == name).map(|it| Edit::DeleteKey(it.id));
            let mut edits: Vec<Edit> = old.collect();
            edits.push(Edit::Put(Resource::Key(ApiKey {
                id: KeyId::new(now, 0, SystemRandom.u64()),
                project: Some(project),
                name,
                scopes: vec![Scope::Ingest, Scope::Read, Scope::Operate],
                hash,
                hint: plain.hint().to_owned(),
                created_at: now,
                expires_at: None,
            })));
            Ok((edits, project))
        })
        .await
        .map(|project| (project, plain))
}

fn greet(app: &App, sink: &str, key: &PlainKey) {
    let paint = Paint::for_stderr();
    let url = format!("http://{}", app.address);
    let warning = format!(
        "Endpoints on this machine ({LOOPBACK}) are allowed. Do not run it like this in public."
    );
    let curl = format!(
        "curl {url}/api/v1/events \\\n    -H 'Authorization: Bearer {}' \\\n    -d '{}'",
        key.expose(),
        r#"{"type":"user.signed_up","payload":{"email":"ada@acme.com","plan":"pro"}}"#,
    );
    output::note(format_args!(
        "\n{title} at {url}\n\n  {warning}\n\n  project  demo\n  key      new at each start, in \
         the command below\n  sink     {sink} verifies what it gets\n\n{paste}\n\n  {curl}\n\n{then}\n",
        title = paint.bold("Tidegate is running"),
        warning = paint.yellow(warning),
        paste = paint.bold("Paste this into another terminal:"),
        then = "Here you will see the event received, processed, signed, delivered and verified. \
                Ctrl-C ends it.",
    ));
}

/// What the sink thought of each message, until its story is shown.
#[derive(Default)]
struct Verdicts(Mutex<HashMap<String, Judgement>>);

impl Verdicts {
    /// Stories that are not shown yet. Past it, some are shown without their verdict.
    const AT_MOST: usize = 4096;

    fn note(&self, id: Option<&str>, judgement: Judgement) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= Self::AT_MOST {
            known.clear();
        }
        known.extend(id.map(|it| (it.to_owned(), judgement)));
    }

    fn take(&self, id: &str) -> Option<Judgement> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id)
    }
}

/// Tells what happens to each event. It is for eyes: when events come faster than it can tell, it
/// leaves some out and says so.
struct Story {
    database: Arc<dyn Database>,
    project: ProjectId,
    planned: PlannedThrough,
    verdicts: Arc<Verdicts>,
    paint: Paint,
    /// Events whose beginning was shown. An attempt may be seen before the acceptance.
    introduced: HashSet<EventId>,
}

impl Story {
    /// Events of which the beginning is remembered as shown.
    const REMEMBERED: usize = 4096;

    async fn tell(mut self, mut sights: Watcher) {
        loop {
            match sights.next().await {
                Ok(Sight::Accepted(event)) => self.introduce(event.id, Some(event.seq)).await,
                Ok(Sight::Activity(activity)) => {
                    self.introduce(activity.event, None).await;
                    self.attempt(&activity);
                }
                Err(MissedSights::Some(count)) => {
                    output::note(self.paint.dim(format_args!("… and {count} more")));
                }
                Err(MissedSights::Closed) => return,
            }
        }
    }

    async fn introduce(&mut self, id: EventId, seq: Option<EventSeq>) {
        if self.introduced.contains(&id) {
            return;
        }
        if self.introduced.len() >= Self::REMEMBERED {
            self.introduced.clear();
        }
        self.introduced.insert(id);
        if let Some(seq) = seq {
            // The gateway ends: there is nothing more to tell.
            let _planned = self.planned.wait_for(seq).await;
        }
        if let Ok(Some(record)) = self.database.event(self.project, id).await {
            self.beginning(&record);
        }
    }

    fn beginning(&self, record: &EventRecord) {
        let event = &record.event;
        let (received, processed) = (self.paint.green("received "), self.paint.green("processed"));
        let title = self.paint.bold(format_args!("{}  {}", event.event_type, event.id));
        let bytes = event.payload.bytes().len();
        output::note(format_args!("{title}\n  {received}  {bytes} bytes, on disk"));
        let deliveries = output::plural(record.deliveries.len() as u64, "delivery planned");
        let what = match record.deliveries.len() {
            0 => "no delivery".to_owned(),
            1 => "one delivery planned".to_owned(),
            _ => deliveries,
        };
        output::note(format_args!("  {processed}  {what}"));
        for skipped in &record.skipped {
            output::note(format_args!("             {}: {}", skipped.by, skipped.reason));
        }
    }

    fn attempt(&self, activity: &Activity) {
        let paint = self.paint;
        let EntryKind::Attempt { number, outcome } = &activity.entry.kind else { return };
        let verdict = self.verdicts.take(&activity.event.to_string());
        let took = output::duration(outcome.duration);
        if verdict.is_some() {
            let how = "webhook-id, webhook-timestamp, webhook-signature";
            output::note(format_args!("  {}     {how}", paint.green("signed")));
        }
        let (word, what) = match activity.entry.ended {
            Some(Ended::Delivered) => (paint.green("delivered"), &outcome.reason),
            Some(_) | None => (paint.red("failed   "), &outcome.reason),
        };
        output::note(format_args!("  {word}  {what}, attempt {number}, in {took}"));
        match verdict {
            Some(Judgement::Verified) => output::note(format_args!(
                "  {}   the sink checked the signature\n",
                paint.green("verified")
            )),
            Some(Judgement::Refused(error)) => {
                output::note(format_args!("  {}    {error}\n", paint.red("refused")));
            }
            Some(Judgement::NotAsked) | None => output::note(""),
        }
    }
}
