//! Who is alive. A state machine without clock, socket, thread or logger: datagrams and the time
//! come in as arguments, [`Output`]s come out of a queue.
