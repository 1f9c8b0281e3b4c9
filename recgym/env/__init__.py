"""The environment: `single.RecSessionEnv`, `vector.RecSessionVectorEnv`, and the torch core `session.Sessions`."""
