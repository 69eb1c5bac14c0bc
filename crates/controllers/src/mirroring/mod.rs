//! EndpointSlices for Endpoints written by hand. What stands in them is planned in `skiff_services::endpoints::mirror`.

pub(crate) mod run;
