"""Who may do what: credentials, and the callers that they stand for. Knows no HTTP and no Kafka."""
