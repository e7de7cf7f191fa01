"""How many kernels a GPU is given for each fused operation."""

# Backward, what follows a product also adds the parts of its bias's gradient.
LAUNCHES = {
    "alexnet::preprocess": 1,
    "alexnet::follow": 1,
    "alexnet::follow_backward": 2,
    "alexnet::activate": 1,
    "alexnet::activate_backward": 2,
    "alexnet::spatial_norm": 1,
    "alexnet::spatial_norm_backward": 1,
    "alexnet::largest_logit": 1,
    "alexnet::loss_sums": 1,
    "alexnet::loss": 1,
    "alexnet::loss_gradient": 1,
    "alexnet::update": 1,
}
