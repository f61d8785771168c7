"""Announcements of outcomes to the backend and Slack, kept in an outbox until delivered."""
