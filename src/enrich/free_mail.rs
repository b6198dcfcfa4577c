//! Domains whose mailboxes anybody can have: they say nothing about a company.

/// The large ones, in alphabetic order. An operator can add others.
const KNOWN: [&str; 64] = [
    "126.com",
    "139.com",
    "163.com",
    "abv.bg",
    "aim.com",
    "aol.com",
    "att.net",
    "bluewin.ch",
    "bol.com.br",
    "btinternet.com",
    "centrum.cz",
    "comcast.net",
    "duck.com",
    "email.com",
    "fastmail.com",
    "foxmail.com",
    "free.fr",
    "freenet.de",
    "gmail.com",
    "gmx.at",
    "gmx.ch",
    "gmx.com",
    "gmx.de",
    "gmx.net",
    "googlemail.com",
    "hanmail.net",
    "hey.com",
    "hotmail.com",
    "hotmail.co.uk",
    "hotmail.fr",
    "hushmail.com",
    "icloud.com",
    "interia.pl",
    "laposte.net",
    "libero.it",
    "live.com",
    "mac.com",
    "mail.com",
    "mail.ru",
    "mailbox.org",
    "me.com",
    "msn.com",
    "naver.com",
    "o2.pl",
    "orange.fr",
    "outlook.com",
    "pm.me",
    "posteo.de",
    "proton.me",
    "protonmail.com",
    "qq.com",
    "rediffmail.com",
    "seznam.cz",
    "t-online.de",
    "tutanota.com",
    "uol.com.br",
    "verizon.net",
    "wanadoo.fr",
    "web.de",
    "wp.pl",
    "yahoo.com",
    "yandex.com",
    "yandex.ru",
    "zoho.com",
];

/// `domain` is in lower case.
pub fn is_free(domain: &str, more: &[String]) -> bool {
    // Yahoo has one for nearly every country.
    let is_yahoo = domain.strip_prefix("yahoo.").is_some_and(|rest| rest.len() <= 6);
    is_yahoo || KNOWN.contains(&domain) || more.iter().any(|it| it.eq_ignore_ascii_case(domain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_domain_is_known_or_added() {
        let more = ["Mail.Acme.com".to_owned()];
        for (domain, expected) in [
            ("gmail.com", true),
            ("yahoo.co.uk", true),
            ("yahoo.engineering.com", false),
            ("mail.acme.com", true),
            ("acme.com", false),
        ] {
            assert_eq!(is_free(domain, &more), expected, "{domain}");
        }
    }
}
