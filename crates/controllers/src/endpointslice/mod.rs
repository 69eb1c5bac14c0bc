//! EndpointSlices of Services with a selector. What stands in them is planned in `skiff_services::endpoints::slices`.

pub(crate) mod run;
pub(crate) mod write;
