//! Puts the stages together and takes them apart again.
