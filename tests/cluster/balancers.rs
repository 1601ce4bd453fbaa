//! What the load balancers do for the nodes: the files of `deploy/` as they are.
