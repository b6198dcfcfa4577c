//! `tidegate apply`, `plan` and `export`: resources as a file.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{
    Context,
    diff::{self, Plan},
    error::{CliError, Result},
    json::Json,
    output::{self, confirm, plural},
    yaml::ResourceFile,
};

/// Apply a resource file: show the changes, then ask
#[derive(Debug, clap::Args)]
#[command(after_help = "\
`${NAME}` in a text stands for the environment variable of this machine; `$${` is `${` itself.

Examples:
  tidegate apply acme.yaml
  tidegate apply acme.yaml --prune --yes     what the file does not name is deleted, without asking")]
pub struct ApplyArgs {
    /// The file, or - for standard input (then with --yes)
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Delete resources of the project that are not in the file
    #[arg(long)]
    prune: bool,
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,
    /// Apply pipelines even if their test cases fail
    #[arg(long)]
    confirm_failing_tests: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Show what a resource file would change; changes nothing
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidegate plan acme.yaml
  tidegate plan acme.yaml --prune --json | jq .changes")]
pub struct PlanArgs {
    /// The file, or - for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// As if what the file does not name were to be deleted
    #[arg(long)]
    prune: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Print the project's resources as a file for `apply`; secrets become ${NAMES}
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidegate export > acme.yaml
  tidegate export --project acme --out acme.yaml")]
pub struct ExportArgs {
    /// File to write (default: standard output)
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// The file with this machine's variables filled in.
fn read(path: &std::path::Path) -> Result<ResourceFile> {
    ResourceFile::read(path, |name| std::env::var(name).ok())
}

fn request(file: &ResourceFile, prune: bool) -> Value {
    json!({ "resources": file.resources, "prune": prune })
}

async fn ask(
    context: &Context,
    path: &str,
    file: &ResourceFile,
    prune: bool,
    is_confirmed: bool,
) -> Result<(Json, Plan)> {
    let query: &[_] = match is_confirmed {
        true => &[("confirm", "failing-tests".to_owned())],
        false => &[],
    };
    let body = request(file, prune).to_string().into();
    let answer = context
        .client
        .post_as(path, query, "application/json", body)
        .await
        .map_err(|error| file.explain(error))?;
    let plan = answer.read()?;
    Ok((answer, plan))
}

/// On standard error, so that the diff stays one.
fn warn(plan: &Plan) {
    for warning in &plan.warnings {
        output::note(format_args!("{} {warning}", output::Paint::for_stderr().yellow("warning:")));
    }
}

pub async fn plan(context: &Context, args: PlanArgs) -> Result<()> {
    let file = read(&args.file)?;
    let (answer, plan) = ask(context, "/api/v1/plan", &file, args.prune, false).await?;
    if args.json {
        return context.out.json(&answer);
    }
    context.out.text(&diff::render(&plan, context.out.paint))?;
    warn(&plan);
    context.out.line(plan.summary())?;
    if !plan.changes.is_empty() {
        let prune = if args.prune { " --prune" } else { "" };
        context.out.next(format_args!("tidegate apply {}{prune}", args.file.display()));
    }
    Ok(())
}

pub async fn apply(context: &Context, args: ApplyArgs) -> Result<()> {
    if args.file.as_os_str() == "-" && !args.yes {
        return Err(
            CliError::usage("a file from standard input leaves nobody to ask").then("add --yes")
        );
    }
    let file = read(&args.file)?;
    let mut is_confirmed = args.confirm_failing_tests;
    if !args.yes {
        let (_, plan) = ask(context, "/api/v1/plan", &file, args.prune, false).await?;
        if plan.changes.is_empty() {
            return context.out.line(diff::done(&plan));
        }
        output::note(diff::render(&plan, output::Paint::for_stderr()).trim_end());
        let failing = plan.failing_tests.len() as u64;
        let question = match failing {
            0 => format!("{}. Apply?", plan.summary()),
            _ => {
                let tests = plural(failing, "failing test case");
                format!("{}, {tests}. Apply all the same?", plan.summary())
            }
        };
        if !confirm(&question)? {
            output::note("nothing was changed");
            return Ok(());
        }
        is_confirmed |= failing > 0;
    }
    let (answer, plan) = ask(context, "/api/v1/apply", &file, args.prune, is_confirmed).await?;
    if args.json {
        return context.out.json(&answer);
    }
    if args.yes {
        context.out.text(&diff::render(&plan, context.out.paint))?;
    }
    warn(&plan);
    context.out.line(diff::done(&plan))?;
    for made in &plan.new_secrets {
        context.out.line(format_args!(
            "made a signing secret for {}, which is shown this once: {}",
            made.destination, made.secret
        ))?;
    }
    if !plan.changes.is_empty() {
        context.out.next("tidegate status");
    }
    Ok(())
}

pub async fn export(context: &Context, args: ExportArgs) -> Result<()> {
    let text = context.client.get_text("/api/v1/export", &[]).await?;
    match args.out {
        None => context.out.text(&text),
        Some(path) => std::fs::write(&path, text).map_err(|source| CliError::File {
            what: format!("`{}` cannot be written", path.display()),
            source,
        }),
    }
}
