"""What travels: XML-RPC documents, the HTTP front they come through, and the dispatch between."""
