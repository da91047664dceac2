"""A server with OpenAI's API: requests join and leave one running batch."""
