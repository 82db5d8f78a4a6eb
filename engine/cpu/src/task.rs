//! Hardware task switches (SDM vol. 3, chapter 7).
