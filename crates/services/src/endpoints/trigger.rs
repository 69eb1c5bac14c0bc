//! When the change happened that an Endpoints write carries on: consumers measure their latency from it.

use std::collections::HashMap;

use k8s_openapi::{
    api::core::v1::{Pod, Service},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};

/// What was last seen of one Service: when it was made, and when each of its pods last became ready or unready.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Triggers {
    service: Option<Timestamp>,
    pods: HashMap<String, Timestamp>,
}

impl Triggers {
    /// Takes in the present state. The earliest time that is new since the last look; None when nothing that is known
    /// by its time changed.
    pub fn look<P: AsRef<Pod>>(&mut self, service: &Service, pods: &[P]) -> Option<String> {
        let made = service.metadata.creation_timestamp.as_ref().map(|t| t.0);
        let now: HashMap<String, Timestamp> = pods.iter().filter_map(|p| changed(p.as_ref())).collect();
        let new_pods = now.iter().filter(|(uid, at)| self.pods.get(*uid) != Some(at)).map(|(_, at)| *at).min();
        let first_look = self.service != made;
        *self = Triggers { service: made, pods: now };
        let trigger = if first_look { made } else { new_pods };
        trigger.map(|t| t.to_string())
    }
}

fn changed(pod: &Pod) -> Option<(String, Timestamp)> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let Time(at) = conditions.iter().find(|c| c.type_ == "Ready")?.last_transition_time.clone()?;
    Some((pod.metadata.uid.clone()?, at))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{super::fixture, *};

    fn at(second: i64) -> Option<Time> {
        Some(Time(Timestamp::from_second(second).unwrap()))
    }

    fn pod(number: u32, second: i64) -> Arc<Pod> {
        let mut pod: Pod = fixture::pod(number).ready().into();
        pod.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].last_transition_time = at(second);
        Arc::new(pod)
    }

    #[test]
    fn first_the_service_then_the_earliest_new_pod() {
        let mut service = fixture::service("web", &[]);
        service.metadata.creation_timestamp = at(100);
        let mut triggers = Triggers::default();
        let second = |t: Option<String>| t.map(|t| t.parse::<Timestamp>().unwrap().as_second());
        assert_eq!(second(triggers.look(&service, &[pod(1, 50)])), Some(100));
        assert_eq!(second(triggers.look(&service, &[pod(1, 50)])), None);
        assert_eq!(second(triggers.look(&service, &[pod(1, 300), pod(2, 200)])), Some(200));
        assert_eq!(second(triggers.look(&service, &[pod(2, 200)])), None, "a pod that is gone has no time");
    }
}
