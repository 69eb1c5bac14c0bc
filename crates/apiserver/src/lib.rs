//! HTTP to store: one implementation of each verb for every resource.
