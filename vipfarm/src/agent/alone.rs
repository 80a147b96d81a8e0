//! Work that blocks a thread and may never end: a name that a server looks up, a file on another machine.

use std::sync::Arc;

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task,
};

/// For one piece of such work at a time. Who gives up waiting for it leaves the thread behind, and gets
/// no other before that one is back: what hangs costs one thread, however often it is tried.
#[derive(Debug, Clone)]
pub(super) struct Alone(Arc<Semaphore>);

/// The right to be at such work, for as long as it is kept.
#[derive(Debug)]
pub(super) struct Turn {
    _permit: OwnedSemaphorePermit,
}

impl Alone {
    /// With nothing at work.
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }

    /// Begins a piece of such work; the error says that the last one is not over.
    pub(super) fn turn(&self) -> Result<Turn, String> {
        let permit = Arc::clone(&self.0).try_acquire_owned();
        permit
            .map(|permit| Turn { _permit: permit })
            .map_err(|_busy| "the last one has not ended yet".to_owned())
    }

    /// Does that; the error says what keeps it from being done.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        let turn = self.turn()?;
        let working = task::spawn_blocking(move || {
            let done = work();
            drop(turn);
            done
        });
        working.await.map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use tokio::time;

    use super::*;

    #[tokio::test]
    async fn what_hangs_is_not_begun_again_until_it_is_back() {
        let alone = Alone::new();
        let (free, wait) = mpsc::channel::<()>();
        let hanging = alone.run(move || wait.recv());
        time::timeout(Duration::from_millis(50), hanging).await.expect_err("nobody frees it");
        for _ in 0..3 {
            let busy = alone.run(|| ()).await;
            assert_eq!(busy, Err("the last one has not ended yet".into()));
        }
        drop(free);
        while alone.run(|| ()).await.is_err() {
            time::sleep(Duration::from_millis(5)).await;
        }
    }
}
