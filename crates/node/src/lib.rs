//! kubelet's place: pod state and plan (pure); runtime, images, volumes, network.
