//! Endpoints of Services with a selector. What stands in them is planned in `skiff_services::endpoints`.

pub(crate) mod run;
