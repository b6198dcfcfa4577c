//! Who is behind an e-mail address: the directory first, then services, and the address's country.

use serde_json::{Map, Value};

use super::{COMPANIES, Failed, PEOPLE, Shared, free_mail};
use crate::{
    model::{Name, ProjectId, RawJson},
    pipeline::{LookupAnswer, LookupStatus, Person},
};

type Fields = Map<String, Value>;

impl Shared {
    /// What is known of a person. Who is asked first is believed first: later answers only fill in
    /// what is missing.
    pub(super) async fn person(&self, project: ProjectId, person: &Person) -> LookupAnswer {
        let domain = person.email.rsplit('@').next().unwrap_or_default();
        let is_free = free_mail::is_free(domain, &self.parts.options.free_mail);
        let mut known = Known::default();
        let is_listed = match self.listed(project, &person.email, domain, is_free).await {
            Ok((mut own, company)) => {
                if let Some(own) = own.as_mut().filter(|_| !person.with_key) {
                    super::without_key(&Name::trusted(PEOPLE), &person.email, own);
                }
                let is_listed = own.is_some();
                known.add(own, "directory");
                known.add(company, "directory");
                is_listed
            }
            Err(failed) => {
                known.failed.get_or_insert(failed);
                false
            }
        };
        if !is_listed {
            for service in self.services_for(project, person.from.as_deref()) {
                match service.ask(&person.email, domain).await {
                    Ok(Some(fields)) => {
                        known.add(read(&fields), service.name());
                        break;
                    }
                    Ok(None) => (),
                    Err(failed) => drop(known.failed.get_or_insert(failed)),
                }
            }
        }
        let is_found = known.from.is_some();
        if !known.fields.contains_key("country")
            && let (Some(countries), Some(ip)) = (&self.countries, &person.ip)
            && let Some(country) = countries.of(ip)
        {
            known.fields.insert("country".to_owned(), country.into());
        }
        if !is_free {
            known.fields.entry("domain").or_insert_with(|| domain.into());
        }
        known.answer(is_found)
    }

    /// The rows of the person and of the company, as the directory has them.
    async fn listed(
        &self,
        project: ProjectId,
        email: &str,
        domain: &str,
        is_free: bool,
    ) -> Result<(Option<Fields>, Option<Fields>), Failed> {
        let mut keys = vec![(Name::trusted(PEOPLE), email.to_owned())];
        if !is_free {
            keys.push((Name::trusted(COMPANIES), domain.to_owned()));
        }
        let rows = self.rows(project, keys).await?;
        let mut rows = rows.iter().map(|it| it.as_ref().and_then(read));
        let own = rows.next().flatten();
        let mut company = rows.next().flatten();
        let mut company_domain = domain;
        // A row may name another company than its address does.
        let named = own.as_ref().and_then(|it| it.get("company")).and_then(Value::as_str);
        if let Some(named) = named
            && named != domain
        {
            let key = (Name::trusted(COMPANIES), named.to_lowercase());
            let found = self.rows(project, vec![key]).await?;
            if let Some(found) = found.first().and_then(|it| it.as_ref()).and_then(read) {
                company = Some(found);
                company_domain = named;
            } else if is_free {
                company = None;
            }
        }
        let is_reference = named == Some(company_domain);
        let company = company.map(|it| as_company(it, company_domain));
        let own = own.map(|mut own| {
            if is_reference && company.is_some() {
                // What stands there is the key; the name is wanted.
                own.shift_remove("company");
            }
            own
        });
        Ok((own, company))
    }
}

/// The fields of a company, as fields of a person.
fn as_company(mut row: Fields, domain: &str) -> Fields {
    let name = row.shift_remove("name").unwrap_or_else(|| domain.into());
    let mut fields = Fields::from_iter([("company".to_owned(), name)]);
    fields.insert("domain".to_owned(), domain.into());
    for (name, value) in row {
        fields.entry(name).or_insert(value);
    }
    fields
}

fn read(row: &RawJson) -> Option<Fields> {
    match row.to_value() {
        serde_json::Value::Object(fields) => Some(fields),
        // Rows are objects, by the check of who puts them.
        _ => None,
    }
}

/// What was found out so far.
#[derive(Default)]
struct Known {
    fields: Fields,
    /// Who knew something first.
    from: Option<String>,
    failed: Option<Failed>,
}

impl Known {
    fn add(&mut self, fields: Option<Fields>, from: &str) {
        let Some(fields) = fields else { return };
        self.from.get_or_insert_with(|| from.to_owned());
        for (name, value) in fields {
            if !value.is_null() {
                self.fields.entry(name).or_insert(value);
            }
        }
    }

    fn answer(self, is_found: bool) -> LookupAnswer {
        let Self { fields, from, failed } = self;
        let fields = (!fields.is_empty()).then(|| RawJson::of(&fields));
        match failed {
            Some(it) if from.is_none() || it.from != "directory" => {
                LookupAnswer { fields, ..LookupAnswer::failed(it.status, &it.from, it.reason) }
            }
            Some(_) | None => {
                let status = if is_found { LookupStatus::Found } else { LookupStatus::NotFound };
                LookupAnswer { status, fields, from, reason: None }
            }
        }
    }
}
