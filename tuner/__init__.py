"""The search: proposes teachers, runs them as trials on warm worker groups, and keeps what was found."""
