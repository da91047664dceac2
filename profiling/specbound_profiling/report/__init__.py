"""What a log shows, for people: plots and one page. Reads finished figures; fits nothing."""
