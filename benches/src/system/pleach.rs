use super::*;
pub struct Pleach;
impl Pleach {
    pub fn create(_: &Path) -> Result<Pleach> {
        anyhow::bail!("not yet")
    }
}
impl System for Pleach {
    fn versions(&self) -> bool {
        true
    }
    fn load(&mut self, _: &Rows, _: &[Value]) -> Result<()> {
        anyhow::bail!("")
    }
    fn get(&mut self, _: &Rows, _: &[usize]) -> Result<Seen> {
        anyhow::bail!("")
    }
    fn scan(&mut self) -> Result<Seen> {
        anyhow::bail!("")
    }
    fn update(&mut self, _: &str, _: &[Edit]) -> Result<()> {
        anyhow::bail!("")
    }
    fn commit(&mut self, _: &str) -> Result<()> {
        anyhow::bail!("")
    }
    fn branch(&mut self, _: &str, _: &str) -> Result<()> {
        anyhow::bail!("")
    }
    fn diff(&mut self, _: &str, _: &str) -> Result<u64> {
        anyhow::bail!("")
    }
    fn merge(&mut self, _: &str, _: &str, _: &str) -> Result<()> {
        anyhow::bail!("")
    }
    fn reopen(&mut self) -> Result<()> {
        anyhow::bail!("")
    }
    fn counters(&self) -> Counters {
        Counters::default()
    }
}
