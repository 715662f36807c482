"""What touches the cluster: the client, the mirrors, the work queue, the executor, Events."""
